"""The command line of `schedd`, which launcher and supervisor read alike."""

import argparse

from lnmt_scheduler.supervisor import journal, paths, version


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="schedd",
        description="The LNMT Scheduler daemon. It stays in the foreground; SIGTERM stops it, SIGHUP reloads.",
        allow_abbrev=False,
    )
    parser.add_argument("--state-dir", metavar="DIR", help="put everything, configuration included, into DIR")
    parser.add_argument("--config", metavar="FILE", help="configuration file (default: config.toml)")
    parser.add_argument("--jobs", metavar="FILE", action="append", default=[], nargs="+", help="job files to load")
    parser.add_argument("--log-level", choices=sorted(journal.LEVELS), default="info")
    parser.add_argument("--version", action="version", version=f"schedd {version.VERSION}")
    # For the Python API: the daemon stops when this descriptor reaches end-of-file.
    parser.add_argument("--tied-to", metavar="FD", type=int, help=argparse.SUPPRESS)
    # From the launcher to the supervisor: the channel between the two.
    parser.add_argument("--channel", metavar="FD", type=int, help=argparse.SUPPRESS)
    # And that this supervisor is to take the place of another.
    parser.add_argument("--standby", action="store_true", help=argparse.SUPPRESS)
    # Or that there was a supervisor before this one, which had begun its work.
    parser.add_argument("--successor", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.jobs = [path for group in options.jobs for path in group]
    return options


def resolve(options: argparse.Namespace) -> paths.Paths:
    return paths.resolve(state_dir=options.state_dir, config=options.config)
