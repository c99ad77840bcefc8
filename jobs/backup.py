"""The backup jobs: configurations of network devices, databases and folders, the restore drill, and what old copies go.

Runs in the job's process, inside its box; how each does its work is in the modules that it imports when it is called, so
that none pays for the packages of another. Each prints only what somebody should read: nothing, if nothing has changed.
"""
# ruff: noqa: PLC0415 - what one job needs is not loaded for the others

import os
from collections.abc import Mapping, Sequence
from typing import Any

from lnmt_scheduler.jobs.context import JobContext, folder_of, id_of


def device_config(
    devices: Sequence[Any], *, folder: str | None = None, workers: int = 8, context: JobContext | None = None
) -> dict[str, Any]:
    """Fetch the running configuration of each device by SSH, keep it in a git folder, and print what has changed.

    A device is a map of `name`, `address`, `type` (netmiko's word), `user`, and `password` or `key`: names among the job's
    secrets (devices.Device has the others). `folder` is the job's own directory unless given. A device that cannot be read
    fails the run, after the others were kept.
    """
    from lnmt_scheduler.jobs import devices as fetching
    from lnmt_scheduler.jobs import needs

    found = fetching.check(devices)
    where = folder or os.path.join(folder_of(context), "configs")
    return fetching.back_up(found, where, needs.secret, workers, _tick(context, "devices"))


def data(
    databases: Sequence[str] = (),
    folders: Sequence[str] = (),
    *,
    target: str | None = None,
    repository: str | None = None,
    password: str = "restic",
    exclude: Sequence[str] = (),
    keep: Mapping[str, int] | None = None,
    init: bool = False,
    context: JobContext | None = None,
) -> dict[str, Any]:
    """Copy SQLite files that are in use into `target`, each checked whole, and folders into a restic repository.

    With both, the copies go into the repository too. `password` names the secret that holds the repository's. `keep`, such as
    {"daily": 7, "weekly": 5, "monthly": 12}, is what stays of this job's snapshots. `init` makes the repository if there
    is none.
    """
    from lnmt_scheduler.jobs import copies, needs, restic

    if folders and repository is None:
        needs.end("data: `folders` go into a restic repository; say `repository`")
    if not databases and not folders:
        needs.end("data: nothing to copy; say `databases` or `folders`")
    found: dict[str, Any] = {}
    where = target or os.path.join(folder_of(context), "copies")

    def snapshot(repository: str) -> restic.Repository:
        snapshots = restic.Repository(repository, needs.secret_file(password), folder_of(context), id_of(context))
        paths = [*folders, *([where] if databases else [])]
        found["snapshot"] = snapshots.back_up(paths, exclude, init=init)
        return snapshots

    try:
        if databases:
            found["databases"] = copies.copy_all(databases, where, _tick(context, "databases"))
    except copies.CopiesFailedError:
        # The folders and the other copies are as good as ever; but no old snapshot goes for one that lacks something.
        if repository is not None:
            snapshot(repository)
        raise
    if repository is not None:
        snapshots = snapshot(repository)
        if keep:
            found["removed_snapshots"] = snapshots.forget(keep)
    return found


def restore_drill(
    *,
    repository: str | None = None,
    password: str = "restic",
    target: str | None = None,
    jobs: Sequence[str] = (),
    max_age: str | float = "2d",
    include: Sequence[str] = (),
    least_files: int = 1,
    read_data: str = "5%",
    context: JobContext | None = None,
) -> dict[str, Any]:
    """Restore the newest snapshots for real, check every database in them and the age of everything, and remove them again.

    They are those of `jobs`, ids of jobs that call `data`, or else of each job that has any of this host. `target` is a folder
    of copies of databases, each of which is opened and checked. `include` bounds what is restored; of the repository's data
    `read_data` is read and checked besides.
    """
    from lnmt_scheduler.jobs import copies, needs, restic, units

    if repository is None and target is None:
        needs.end("restore_drill: nothing to restore; say `repository` or `target`")
    oldest = units.duration(max_age)
    found: dict[str, Any] = {}
    if target is not None:
        found["databases"] = copies.drill(target, oldest)
    if repository is not None:
        snapshots = restic.Repository(repository, needs.secret_file(password), folder_of(context), id_of(context))
        found["snapshots"] = snapshots.drill(jobs, oldest, include, least_files, read_data)
    return found


def cleanup(
    root: str,
    *,
    keep: Mapping[str, int],
    dry_run: bool = False,
    context: JobContext | None = None,  # noqa: ARG001 (as the others have it)
) -> dict[str, Any]:
    """Remove old copies, files named NAME-20260301T040000Z.EXT directly in `root`.

    Of each NAME stay the newest of so many days, weeks and months (`keep`: last, daily, weekly, monthly, yearly), and always
    the newest that is good.

    With `dry_run` it says what would go.
    """
    from lnmt_scheduler.jobs import retention

    return retention.clean(root, keep, dry_run=dry_run)


def _tick(context: JobContext | None, what: str) -> Any:
    return (lambda done, total: context.progress(done, total, what)) if context is not None else (lambda *_: None)


class LNMTBackupJobs:
    """The same by the names of the first document."""

    backup_configurations = staticmethod(device_config)
    backup_data = staticmethod(data)
    cleanup_backups = staticmethod(cleanup)
