"""A function job's own interpreter: `python -I -m lnmt_scheduler.jobs.fresh`, executed by child.py inside the box.

What runs untrusted code must not be a fork of the launcher, whose memory it would inherit. The descriptors are at their
places, the sandbox is entered; all that is left is to be the child.
"""

import os

from lnmt_scheduler.jobs import child
from lnmt_scheduler.sandbox import init


def main() -> None:
    """Become the job; what cannot be started is told on the error pipe, as a fork would have it told."""
    try:
        for fd in (init.PAYLOAD_FD, init.ERROR_FD):
            os.set_inheritable(fd, False)
        child.main(is_fresh=True)
    except init.NotStartedError as error:
        init.report_error(init.ERROR_FD, b"P", str(error))
    os._exit(1)


if __name__ == "__main__":
    main()
