"""Text from outside as it may be shown: user names of a log, what a server answers, names of interfaces. Pure.

Whoever writes it may want to move the cursor of who reads it, so all that is no print is escaped, and it is cut.
"""


def text(given: object, limit: int = 200) -> str:
    """At most `limit` characters that move nothing."""
    plain = str(given)[:limit]
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in plain)[:limit]
