"""backup, store: copies of the store, and what to do when it is damaged.

While the daemon runs it sends its file over the control socket, piece by piece, and everything else is done here: writing
it where the caller may write, and reading it from end to end. While it does not, the file is read directly, under the
daemon's lock, so that none starts meanwhile.
"""

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator

import click

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import cli_common, client, leftovers, mending, paths
from lnmt_scheduler.supervisor import store as stores
from lnmt_scheduler.supervisor.cli_sandbox import Group


@click.command("backup", cls=cli_common.Command)
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False))
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
def backup(file: str, force: bool) -> None:
    """Copy the store into a file, checked: definitions, history and audit. The daemon may run, and is not held up."""
    invocation = cli_common.current()
    if not force and os.path.lexists(file):
        raise cli_common.Failure(
            f"{file} is there already; name another, or replace it with --force", control.CANNOT_WRITE
        )
    part = f"{file}.part"
    try:
        with _new_file(part) as opened:
            taken = time.time_ns() // 1_000_000
            _fetch(invocation, opened, part)
        problems = mending.check(part)
        if problems:
            raise cli_common.Failure(f"the store is damaged, and {file} was not written", details=tuple(problems))
        counts = mending.seal(part, taken)
        _put_in_place(part, file, force=force)
    except OSError as error:
        raise cli_common.Failure(f"cannot write {file}: {error.strerror}", control.CANNOT_WRITE) from None
    except stores.StoreError as error:
        raise cli_common.Failure(str(error), _code(error)) from None
    finally:
        for name in (part, f"{part}-wal", f"{part}-shm"):
            _unlink(name)
    size = os.path.getsize(file)
    if invocation.json:
        cli_common.print_json({"file": os.path.abspath(file), "bytes": size, "jobs": counts.jobs, "runs": counts.runs})
    else:
        print(f"{file}: {counts.jobs} jobs, {counts.runs} runs, {size} bytes, checked")


@click.group("store", cls=Group, no_args_is_help=False)
def store() -> None:
    """Check or rebuild the store."""


@store.command("check", cls=cli_common.Command)
@click.option("--orphans", is_flag=True, help="Also look for files that belong to no job and no run.")
def check(orphans: bool) -> int:
    """Read all of the store and say what is wrong with it. 1 if something is. The daemon may run: then a copy is read."""
    invocation = cli_common.current()
    try:
        with contextlib.ExitStack() as stack:
            path = stack.enter_context(_readable(invocation))
            problems = mending.check(path)
            found = list(_orphans(invocation.paths(), path)) if orphans and not problems else []
    except stores.StoreError as error:
        if error.kind == "missing":
            raise cli_common.Failure(str(error), control.UNAVAILABLE) from None
        problems, found = [str(error)], []
    except OSError as error:
        raise cli_common.Failure(
            f"no room for a copy to look at: {error.strerror}; set TMPDIR", control.CANNOT_WRITE
        ) from None
    if invocation.json:
        state = "damaged" if problems else "ok"
        cli_common.print_json({"store": state, "problems": problems, **({"orphans": found} if orphans else {})})
    else:
        for line in (*problems, *(f"belongs to nobody: {each}" for each in found)):
            print(cli_common.printable(line))
        if not problems:
            print("The store is whole.")
        else:
            cli_common.warn("stop the daemon, then: schedctl store repair; or put a backup back")
    return control.FAILED if problems or found else control.OK


@store.command("repair", cls=cli_common.Command)
@click.option("--orphans", is_flag=True, help="Also remove files that belong to no job and no run.")
def repair(orphans: bool) -> None:
    """Build a damaged store anew from what can be read, and keep the damaged file. The daemon must not run."""
    invocation = cli_common.current()
    where = invocation.paths()
    kept: dict[str, int] = {}
    lost: list[str] = []
    damaged, removed = None, []
    try:
        with _stopped(where):
            if _is_damaged(where.database):
                kept, lost, damaged = _rebuild(where.database)
            if orphans:
                removed = list(_orphans(where, where.database))
                for path in removed:
                    leftovers.remove(path, cli_common.warn)
    except stores.StoreError as error:
        raise cli_common.Failure(str(error), _code(error)) from None
    except OSError as error:
        message = f"cannot write beside {where.database}: {error.strerror}"
        raise cli_common.Failure(message, control.CANNOT_WRITE) from None
    if invocation.json:
        cli_common.print_json({"damaged": damaged, "kept": kept, "lost": lost, "orphans": removed})
        return
    if damaged is None:
        print("The store is whole; nothing was rebuilt.")
    else:
        print(f"Rebuilt: {', '.join(f'{count} {word}' for word, count in kept.items() if count)}.")
        for line in lost:
            print(cli_common.printable(f"Lost: {line}"))
        print(f"The damaged file is kept as {damaged}")
    if orphans:
        print(f"{len(removed)} files and directories that belonged to nobody are removed.")


def _is_damaged(path: str) -> bool:
    if not os.path.exists(path):
        raise stores.StoreError("missing", f"there is no store at {path}")
    return bool(mending.check(path)) if os.path.getsize(path) else True


def _rebuild(path: str) -> tuple[dict[str, int], list[str], str]:
    """Put a new store in the place of the damaged one; the rows kept, what was lost, and where the damaged one is."""
    fresh, aside = f"{path}.rebuilt", f"{path}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    try:
        for name in (fresh, f"{fresh}-wal"):
            _unlink(name)
        result = mending.rebuild(path, fresh)
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{path}{suffix}", f"{aside}{suffix}")
        owner = os.stat(aside)
        os.chown(fresh, owner.st_uid, owner.st_gid)
        os.rename(fresh, path)
        _sync_directory(path)
    finally:
        for name in (fresh, f"{fresh}-wal"):
            _unlink(name)
    _unlink(f"{path}.suspect")
    return result.kept, result.lost, aside


def _orphans(where: paths.Paths, database: str) -> Iterator[str]:
    uids, has_run = mending.known(database)
    return leftovers.find(where.output_dir, os.path.join(where.state_dir, "jobs"), uids, has_run)


# Reading the store, with and without its daemon.


def _fetch(invocation: cli_common.Invocation, opened: int, path: str) -> None:
    """Write the store as it is now into an open, empty file."""
    try:
        daemon = invocation.client()
    except client.Unreachable:
        where = invocation.paths()
        with _stopped(where):
            mending.copy(where.database, path)
        return
    with daemon:
        for item in daemon.stream(control.Backup()):
            left = memoryview(item["data"])
            while left:
                left = left[os.write(opened, left) :]


@contextlib.contextmanager
def _readable(invocation: cli_common.Invocation) -> Iterator[str]:
    """A file with the store as it is now: a running daemon's in a copy, that of a stopped one itself."""
    where = invocation.paths()
    try:
        invocation.client().close()
    except client.Unreachable:
        with _stopped(where):
            if not os.path.exists(where.database):
                raise stores.StoreError("missing", f"there is no store at {where.database}") from None
            yield where.database
        return
    with tempfile.TemporaryDirectory(prefix="schedctl-") as folder:
        path = os.path.join(folder, "store.db")
        with _new_file(path) as opened:
            _fetch(invocation, opened, path)
        yield path


@contextlib.contextmanager
def _stopped(where: paths.Paths) -> Iterator[None]:
    """No daemon runs, and none starts."""
    try:
        lock = os.open(where.lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise stores.StoreError("missing", f"there is no store at {where.database}; name its --state-dir") from None
    except PermissionError:
        raise stores.StoreError(
            "denied", f"not allowed to open {where.lock}; use the daemon's account or root"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise cli_common.Failure(f"a daemon runs on {where.state_dir}; stop it first: schedctl stop") from None
    finally:
        os.close(lock)


def _code(error: stores.StoreError) -> int:
    match error.kind:
        case "missing":
            return control.UNAVAILABLE
        case "denied":
            return control.NOT_ALLOWED
        case "full" | "readonly" | "io":
            return control.CANNOT_WRITE
    return control.FAILED


# Files.


@contextlib.contextmanager
def _new_file(path: str) -> Iterator[int]:
    """A new private file, durable at the end."""
    _unlink(path)
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield opened
        os.fsync(opened)
    finally:
        os.close(opened)


def _put_in_place(part: str, file: str, *, force: bool) -> None:
    if force:
        os.rename(part, file)
    else:
        os.link(part, file)  # unlike a rename it replaces nothing that has come meanwhile
    _sync_directory(file)


def _sync_directory(path: str) -> None:
    directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


COMMANDS = {"backup": backup, "store": store}
