"""Which job the supervisor has in hand: one word that outlives its process.

The word lies in a page that the launcher owns and hands to every supervisor. Whatever is done for one job (deciding its
slots, a step of its runs, parsing what it says) happens between take() and the end of the turn, when free() is called. So a
supervisor that fails by its own doing leaves behind with whom. It costs a store to memory;
nothing waits for a disk.
"""

import errno
import mmap

from lnmt_scheduler.supervisor import store

_SHORTAGES = frozenset(
    {
        errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EAGAIN,
    }
)  # fmt: skip
#: Bytes.
_WORD = 8


class Hand:
    def __init__(self, page: int | None) -> None:
        """`page` is the launcher's, which the caller closes; None: one of our own, that tells nobody anything."""
        # Not mmap.PAGESIZE, which may be more than the launcher's page has (64 KiB on some arm64 and ppc64le).
        self._map = mmap.mmap(-1 if page is None else page, _WORD)
        self._word = memoryview(self._map).cast("q")
        #: uid of the job that the supervisor before us had in hand at its end; 0: none.
        self.left: int = self._word[0]
        self.free()

    def take(self, job_uid: int) -> None:
        self._word[0] = job_uid

    def free(self) -> None:
        self._word[0] = 0

    def forgive(self, error: BaseException) -> None:
        """This ends the supervisor; where the host is short of something, whose job it met is chance."""
        if isinstance(error, store.StoreError | MemoryError) or (
            isinstance(error, OSError) and error.errno in _SHORTAGES
        ):
            self.free()
