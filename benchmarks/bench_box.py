"""A boxed program and a boxed Python function, beside bubblewrap with the same mounts: what does a closed box cost?

"By the launcher" is from its order to the exit that it tells, with cgroup, filter and landlock, which bubblewrap does not
have here; "by the daemon" has the two durable commits of a run besides. `bwrap` gets no network for `untrusted` and the
host's for `standard`, as ours. All are measured twice: some time apart, as most runs of a host are, so that a box stands
ready for each; and back to back, so that each waits for its box to be made.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import common
import harness
import standin

from lnmt_scheduler.ipc import control
from lnmt_scheduler.sandbox import policy, profiles

TIMES = 60
#: Between two calls: seconds, and what that is called.
PAUSES = {0.05: "apart", 0.0: "back to back"}
PROGRAM = "/bin/true"
NEEDED = [sys.base_prefix, sys.prefix, str(Path(policy.__file__).parents[1])]
FUNCTION: dict[str, object] = {"module": "os", "function": "getpid"}
_TREES = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt")
_PRIVATE = ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]


def bubblewrap(profile: str, own: str) -> list[str]:
    """The command that shows what a box of this profile shows, with `own` writable; the program is still to be added."""
    command = [shutil.which("bwrap") or "bwrap", "--unshare-all", "--die-with-parent", "--new-session"]
    if profile == "standard":
        command += ["--share-net", "--ro-bind", "/", "/", *_PRIVATE, "--tmpfs", "/var/tmp"]
    else:
        for path in _TREES:
            if os.path.islink(path):
                command += ["--symlink", os.readlink(path), path]
            elif os.path.isdir(path):
                command += ["--ro-bind", path, path]
        command += _PRIVATE
    for path in NEEDED:
        command += ["--ro-bind", path, path]
    return [*command, "--bind", own, own]


def by_launcher(launched: standin.Launched, profile: str, own: str, pause: float, **job: object) -> float:
    """Median seconds of an attempt."""
    built = profiles.build({"profile": profile}, {}, state_directory=own, needed=NEEDED, daemon_files=[])

    def run() -> None:
        exited = launched.run(wanted=built.to_map(), **job).exited
        if exited.exit_code != 0:
            raise SystemExit(f"the box of profile {profile} failed: {exited}")

    return common.median(run, TIMES, pause)


def by_daemon(running: harness.Daemon, job_id: str, pause: float) -> float:
    """Median seconds of a run, asked to recorded."""
    with running.client() as connection:

        def run() -> None:
            run_id = connection.request(control.Run(job_id=job_id))["run_id"]
            connection.request(control.Follow(run_id=run_id))

        found = common.median(run, TIMES, pause)
    bad = [row for row in running.history(job_id=job_id) if row["status"] != "completed"]
    if bad:
        raise SystemExit(f"a run of {job_id} failed: {bad[0]}")
    return found


def beside(what: str, ours: float, name: str, command: list[str], pause: float) -> None:
    """One row: ours beside the time of a command."""
    if not os.path.isabs(command[0]):
        common.say(what, f"{ours * 1e3:.2f} ms", f"{command[0]} is not installed", None)
        return

    def run() -> None:
        pid = os.posix_spawn(command[0], command, {"PATH": "/usr/bin:/bin"})
        if os.waitpid(pid, 0)[1]:
            raise SystemExit(f"{' '.join(command)} failed")

    theirs = common.median(run, TIMES, pause)
    common.say(what, f"{ours * 1e3:.2f} ms", f"{name} {theirs * 1e3:.2f} ms", ours / theirs)


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="lnmt-bench-"))
    folder.chmod(0o755)
    own = str(folder / "own")
    os.mkdir(own)
    try:
        for pause in PAUSES:
            measure(folder / str(pause), own, pause)
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, own: str, pause: float) -> None:
    """All rows of one pause; `folder` is made."""
    folder.mkdir(mode=0o755)
    closed = {profile: bubblewrap(profile, own) for profile in ("standard", "untrusted")}
    python = [sys.executable, "-c", "pass"]
    functions: dict[str, dict[str, object]] = {
        "standard": FUNCTION,
        "untrusted": {**FUNCTION, "python": sys.executable},
    }
    with standin.Launched(folder) as launched:
        for profile, command in closed.items():
            what = f"box, `{profile}`, {PAUSES[pause]}: "
            ours = by_launcher(launched, profile, own, pause, argv=[PROGRAM])
            beside(f"{what}`true`, by the launcher", ours, "`bwrap true`", [*command, PROGRAM], pause)
            beside("the same", ours, "bare fork and exec", [PROGRAM], pause)
            ours = by_launcher(launched, profile, own, pause, **functions[profile])
            wrapped = [*command, *python]
            beside(f"{what}Python function, by the launcher", ours, "`bwrap python -c pass`", wrapped, pause)
            beside("the same", ours, "`python -c pass`", python, pause)
    with common.daemon() as running:
        for profile, command in closed.items():
            what = f"box, `{profile}`, {PAUSES[pause]}: "
            running.add(id=f"true-{profile}", sandbox=profile, command=[PROGRAM])
            running.add(id=f"function-{profile}", sandbox=profile, **FUNCTION)
            ours = by_daemon(running, f"true-{profile}", pause)
            beside(f"{what}`true`, by the daemon", ours, "`bwrap true`", [*command, PROGRAM], pause)
            ours = by_daemon(running, f"function-{profile}", pause)
            wrapped = [*command, *python]
            beside(f"{what}Python function, by the daemon", ours, "`bwrap python -c pass`", wrapped, pause)


if __name__ == "__main__":
    main()
