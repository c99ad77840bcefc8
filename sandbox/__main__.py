"""`python -m lnmt_scheduler.sandbox -- CMD ARG...`: any command under a policy, in the foreground.

What the launcher would do for a job, without daemon, store or schedule: to replay a failed run by hand, and to try what a
profile allows. The exit code is the command's; 125 says that the sandbox could not be had, 127 that the command could not
be started, 2 that the options make no sense. `--plan` prints what would be done, `--host` what this host offers.
"""

import argparse
import grp
import json
import os
import pwd
import re
import sys
from dataclasses import replace

from lnmt_scheduler.sandbox import describe, enter, foreground, orders, policy, probe, profiles, settle, users

#: Instead of an account: a user of its own.
_DYNAMIC = "dynamic"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_LIMITS = ("memory", "swap", "cpu", "cpu_time", "pids", "open_files", "file_size", "tmp_size", "nice", "io_class")


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d{1,15})([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size, such as 4096 or 512M")
    return int(found[1]) * _UNITS[found[2].upper()]


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _uids(text: str) -> users.Range:
    try:
        return users.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _account(name: str) -> pwd.struct_passwd | str:
    if name == _DYNAMIC:
        if os.geteuid() != 0:
            raise argparse.ArgumentTypeError("only root can give a run a user of its own")
        return name
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise argparse.ArgumentTypeError(f"no account is named {name!r}") from None


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise argparse.ArgumentTypeError(f"no group is named {name!r}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lnmt_scheduler.sandbox",
        description="Run a command under a policy, as a job would be.",
        usage="%(prog)s [options] -- COMMAND [ARGUMENT...]",
        allow_abbrev=False,
    )
    parser.add_argument("--profile", choices=sorted(profiles.PROFILES), default="standard")
    parser.add_argument("--network", choices=profiles.NETWORKS)
    parser.add_argument("--proc", choices=("full", "own"))
    parser.add_argument("--processes", choices=("own", "host"))
    for name, text in (
        ("writable", "a path that it may change"),
        ("readable", "a path that is shown although the profile hides it"),
        ("hidden", "a path that is covered"),
    ):
        parser.add_argument(f"--{name}", metavar="PATH", action="append", default=[], help=text)
    parser.add_argument("--require", metavar="LAYER", action="append", default=[], help="refuse to run without it")
    for name, kind in (
        ("memory", _size), ("swap", _size), ("cpu", float), ("cpu-time", float), ("pids", int), ("open-files", int),
        ("file-size", _size), ("tmp-size", _size), ("nice", int), ("io-class", str),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, metavar="N", help=f"the limit {name.replace('-', '_')} of a job")
    parser.add_argument("--user", type=_account, metavar="NAME", help="run as this account, or dynamic (root only)")
    parser.add_argument(
        "--group", type=_group, metavar="NAME", help="and as this group, in place of the account's (root only)"
    )
    parser.add_argument(
        "--uid-range",
        type=_uids,
        metavar="FIRST-LAST",
        default=users.DEFAULT,
        help="where a user of its own is taken from; default: %(default)s",
    )
    parser.add_argument("--state-directory", metavar="DIR", help="default: a temporary one")
    parser.add_argument("--chdir", metavar="DIR", help="default: the home of the account")
    parser.add_argument("--umask", type=lambda text: int(text, 8), default=0o022, metavar="022")
    parser.add_argument("--env", type=_variable, metavar="NAME=VALUE", action="append", default=[])
    parser.add_argument("--terminal", action="store_true", help="give it a terminal of its own")
    parser.add_argument("--plan", action="store_true", help="print what would be done, and do nothing")
    parser.add_argument("--host", action="store_true", help="print what this host offers, as JSON")
    # From schedctl: the descriptor of a file with a policy and a command, in place of options.
    parser.add_argument("--order", type=int, metavar="FD", help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="*", metavar="COMMAND", help=argparse.SUPPRESS)
    return parser


def _policy(options: argparse.Namespace) -> policy.Policy:
    """ValueError if the options contradict each other."""
    given = {
        "profile": options.profile,
        **{key: word for key in ("network", "proc", "processes") if (word := getattr(options, key)) is not None},
        **{key: paths for key in ("writable", "readable", "hidden", "require") if (paths := getattr(options, key))},
    }
    limits = {key: value for key in _LIMITS if (value := getattr(options, key)) is not None}
    needed = {path for path in [*options.command[:1], options.chdir] if path and os.path.isabs(path)}
    made = profiles.build(
        profiles.canonical(given, options.profile),
        limits,
        state_directory=options.state_directory,
        needed=[path for path in needed if os.path.exists(path)],
        daemon_files=(),
    )
    if options.group is not None and options.user in (None, _DYNAMIC):
        raise ValueError("--group: it needs the name of an account beside it (--user)")
    if options.user == _DYNAMIC:
        made = replace(made, dynamic=True)
    elif options.user is not None:
        who = options.user
        gid = who.pw_gid if options.group is None else options.group
        groups = tuple(os.getgrouplist(who.pw_name, gid))
        made = replace(made, uid=who.pw_uid, gid=gid, groups=groups, dynamic=False)
    return users.open_ways(made) if made.dynamic and os.geteuid() == 0 else made


def _asked(options: argparse.Namespace) -> tuple[policy.Policy, foreground.Command]:
    if options.order is not None:
        with open(options.order, encoding="utf-8") as file:
            order = json.load(file)
        return policy.from_map(order["policy"]), foreground.Command(**order["command"])
    wanted = _policy(options)
    return wanted, foreground.Command(
        argv=options.command,
        environment=_environment(options, wanted),
        directory=options.chdir,
        umask=options.umask,
        terminal=options.terminal,
    )


def _environment(options: argparse.Namespace, wanted: policy.Policy) -> dict[str, str]:
    """As clean as a job's."""
    found = {"PATH": _PATH, "LANG": "C.UTF-8", "TMPDIR": "/tmp"}
    if wanted.dynamic and os.geteuid() == 0:
        found |= {"HOME": wanted.state_directory or "/", "USER": "lnmt-job", "LOGNAME": "lnmt-job", "SHELL": "/bin/sh"}
    else:
        who = options.user or _own_account()
        if who is not None:
            found |= {"HOME": who.pw_dir, "USER": who.pw_name, "LOGNAME": who.pw_name, "SHELL": who.pw_shell}
    if os.isatty(0) and "TERM" in os.environ:
        found["TERM"] = os.environ["TERM"]
    return found | dict(options.env)


def _own_account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(os.geteuid())
    except KeyError:
        return None


def _print_plan(wanted: policy.Policy, host: probe.Host, uids: users.Range) -> None:
    is_root = os.geteuid() == 0
    uid = uids.last if wanted.dynamic and is_root else None
    for each in settle.standings(wanted, host, is_root=is_root):
        print(f"{each.layer:<14} {each.wanted:<8} {each.state}{f': {each.why}' if each.why else ''}")
    for section, lines in describe.plan(settle.settle(wanted, host, is_root=is_root, uid=uid), host).items():
        if lines:
            print(f"\n{section}:", *lines, sep="\n  ")


def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    if not (options.command or options.host or options.plan or options.order is not None):
        parser.error("a COMMAND is expected, after --")
    try:
        wanted, command = _asked(options)
    except ValueError as error:
        parser.error(str(error))
    host = probe.probe(frozenset(os.environ.get(probe.PRETEND, "").split(",")) - {""})
    if options.host:
        print(json.dumps(host.to_map()))
        return 0
    try:
        if options.plan:
            _print_plan(wanted, host, options.uid_range)
            return 0
        return foreground.run(command, wanted, host, options.uid_range)
    except orders.NotStartedError as error:
        foreground.complain(str(error))
        return foreground.NOT_STARTED
    except (policy.RefusedError, enter.SandboxError, OSError, ValueError) as error:
        foreground.complain(str(error))
        return foreground.REFUSED


if __name__ == "__main__":
    sys.exit(main())
