"""The version of the code that a process has loaded; a test holds it to that of the package.

Kept here, because to ask the installed package's metadata costs the launcher a megabyte and every fork the copy of it.
"""

import glob
import os
import re

VERSION = "0.1.0"
#: The year in which it was made: a clock that shows an earlier one is wrong.
YEAR = 2026


def on_disk(file: str = __file__) -> str:
    """The version of the package that the next supervisor would load: an upgrade may have put another there, or beside it.

    Where versions lie beside each other, each in a directory of its own, a link `current` names the one that counts.
    """
    try:
        with open(_current(file), encoding="utf-8") as opened:
            found = re.search(r'^VERSION = "([^"]+)"', opened.read(), re.MULTILINE)
    except OSError:
        return "none"
    return found[1] if found else "unknown"


def _current(file: str) -> str:
    """This file, in the version that is current."""
    directory = os.path.dirname(file)
    while (above := os.path.dirname(directory)) != directory:
        link = os.path.join(above, "current")
        if os.path.islink(link):
            inside = os.path.relpath(file, directory)
            # The interpreter of another version may be another one: lib/python3.11/, lib/python3.12/.
            return next(iter(glob.glob(f"{glob.escape(link)}/{re.sub('python3[.][0-9]+', 'python3.*', inside)}")), link)
        directory = above
    return file
