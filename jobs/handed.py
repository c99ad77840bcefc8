"""Files that a box gets and nobody outside of it: a job's secrets, and what it is granted of the daemon's own.

Written by child.py in the job's own process, as the job's user, into the box's private memory (or, where no mount can make one,
its directory of temporary files, which init removes): they end with the box. They travel inside the sealed payload, so no
argument, environment, row or file of the daemon ever holds them.
"""

import os
from collections.abc import Mapping

from lnmt_scheduler.sandbox import orders, scratch

#: The variable by which systemd tells a service the same (systemd.exec(5)).
VARIABLE = "CREDENTIALS_DIRECTORY"
HISTORY_VARIABLE = "LNMT_HISTORY"
#: Names that no secret can have, since they begin with a dot.
HISTORY = ".history.db"


def write(files: Mapping[str, bytes]) -> dict[str, str]:
    """Write them; the variables that tell the job where. NotStartedError if there is no room."""
    try:
        directory = os.path.join(scratch.place(), f"lnmt-files-{os.urandom(8).hex()}")
        os.mkdir(directory, 0o700)
        for name, content in files.items():
            fd = os.open(os.path.join(directory, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
            with open(fd, "wb") as file:  # whose buffer makes one write of many that are cut short
                file.write(content)
    except OSError as error:
        raise orders.NotStartedError(f"files of the box: {error}") from error
    found = {VARIABLE: directory}
    if HISTORY in files:
        found[HISTORY_VARIABLE] = os.path.join(directory, HISTORY)
    return found
