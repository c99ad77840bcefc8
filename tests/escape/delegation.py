"""Control groups given by root to an ordinary account, as an administrator or systemd would: one in each tree of this host.

The account's daemon is started through `wrapper`, which enters them as root, since version 2 wants that, and then becomes the
account. Where none can be given, as for a test run that is itself an ordinary account, the wrapper is empty, and what needs a
cgroup is not to be had there.
"""

import contextlib
import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path

import harness

from lnmt_scheduler.sandbox import cgroup

#: What its owner must be able to write; cgroups(7), "Delegation".
_GIVEN = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "tasks")


@contextlib.contextmanager
def wrapper_of(user: str | None) -> Iterator[tuple[str, ...]]:
    if user is None or os.geteuid() != 0:
        yield ()
        return
    with cgroups() as (folders, wrapper):
        account = pwd.getpwnam(user)
        for folder in folders:
            for path in (folder, *(folder / name for name in _GIVEN)):
                if path.exists():
                    os.chown(path, account.pw_uid, account.pw_gid)
        become = ("setpriv", "--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--clear-groups")
        yield (*wrapper, *become) if wrapper else ()


@contextlib.contextmanager
def cgroups() -> Iterator[tuple[list[Path], tuple[str, ...]]]:
    """New cgroups, one in each tree of this host, and the wrapper that enters them."""
    made: list[Path] = []
    try:
        for tree in cgroup.find().trees:
            with contextlib.suppress(OSError):
                made.append(Path(tempfile.mkdtemp(prefix="lnmt-test-", dir=tree.path)))
        enter = "; ".join(f"echo 0 > {folder}/cgroup.procs" for folder in made)
        yield made, ("/bin/sh", "-c", f'{enter}; exec "$@"', "sh") if made else ()
    finally:
        for folder in made:
            harness.wait_for(lambda folder=folder: _is_removed(folder), what=f"{folder} to be empty")


def _is_removed(folder: Path) -> bool:
    """What was killed a moment ago may still be on its way out."""
    if not folder.exists():
        return True
    for path, _, _ in os.walk(folder, topdown=False):
        try:
            os.rmdir(path)
        except OSError:
            return False
    return True
