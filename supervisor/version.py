"""The version of the code that a process has loaded; a test holds it to that of the package.

Kept here, because to ask the installed package's metadata costs the launcher a megabyte and every fork the copy of it.
"""

import re

VERSION = "0.1.0"
#: The year in which it was made: a clock that shows an earlier one is wrong.
YEAR = 2026


def on_disk() -> str:
    """The version of the package that the next process of the daemon would load: an upgrade may have put another there."""
    try:
        with open(__file__, encoding="utf-8") as file:
            found = re.search(r'^VERSION = "([^"]+)"', file.read(), re.MULTILINE)
    except OSError:
        return "none"
    return found[1] if found else "unknown"
