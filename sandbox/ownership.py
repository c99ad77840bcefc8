"""A job's state directory is handed over to the user of its next run, by init and before the box has mounts of its own.

Init still has all of root's rights then, and another run of the same job may be at work in there. So whatever the job put in
a name's place meanwhile, nothing but a directory is ever opened (to open a device or a pipe has effects of its own), no link
is followed, and the way up again is taken only if it leads back to where this came from. The walk is a loop with two
descriptors, since a job may nest directories a hundred thousand deep.
"""

import errno
import os
import stat

from lnmt_scheduler.sandbox import policy

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: What tells that a name is gone, or is no directory any more; of a link it is the one or the other (open(2)).
_TAKEN_AWAY = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


def own_directory(path: str, wanted: policy.Policy) -> None:
    """Make the directory, and give it with all in it to the run's user if it belongs to another.

    Links are never followed, and files with a second name are left alone: that name may lie outside. What somebody takes
    away meanwhile is passed over. OSError.
    """
    uid = os.geteuid() if wanted.uid is None else wanted.uid
    gid = os.getegid() if wanted.gid is None else wanted.gid
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    directory = os.open(path, _DIRECTORY)
    try:
        if os.fstat(directory).st_uid == uid:
            return
        _give_below(directory, uid, gid)
        os.fchown(directory, uid, gid)  # last: one that was given in part is gone through again
    finally:
        os.close(directory)


def _give_below(top: int, uid: int, gid: int) -> None:
    here = os.dup(top)
    #: From the top down to here: which directory it is, and what in it is yet to be entered.
    above: list[tuple[tuple[int, int], list[str]]] = []
    try:
        folders = _give_entries(here, uid, gid)
        while folders or above:
            if folders:
                below = _open_folder(folders.pop(), here)
                if below is None:
                    continue
                above.append((_identity(here), folders))
                here = _close_for(here, below)
                folders = _give_entries(here, uid, gid)
            else:
                origin, folders = above.pop()
                here = _close_for(here, os.open("..", _DIRECTORY, dir_fd=here))
                if _identity(here) != origin:
                    raise OSError(
                        errno.ESTALE, "a directory in it was moved while it was handed over to the run's user"
                    )
    finally:
        os.close(here)


def _give_entries(directory: int, uid: int, gid: int) -> list[str]:
    """Give what is in the directory; the names of those that are directories themselves."""
    folders = []
    for name in os.listdir(directory):
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            is_folder = stat.S_ISDIR(found.st_mode)
            if is_folder or found.st_nlink == 1:
                os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if is_folder:
            folders.append(name)
    return folders


def _open_folder(name: str, within: int) -> int | None:
    try:
        return os.open(name, _DIRECTORY, dir_fd=within)
    except OSError as error:
        if error.errno in _TAKEN_AWAY:
            return None
        raise


def _close_for(old: int, new: int) -> int:
    os.close(old)
    return new


def _identity(directory: int) -> tuple[int, int]:
    found = os.fstat(directory)
    return found.st_dev, found.st_ino
