"""The version of the code that a process has loaded; a test holds it to that of the package.

Kept here, because to ask the installed package's metadata costs the launcher a megabyte and every fork the copy of it.
"""

VERSION = "0.1.0"
#: The year in which it was made: a clock that shows an earlier one is wrong.
YEAR = 2026
