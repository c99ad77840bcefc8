"""A cron expression in the words of people: "At 00:00, on day 13 of the month, or on Friday".

For `schedctl forecast --expr`. The words are those of cron-descriptor, an extra, which knows neither nicknames nor `H`, says
"or" where Debian's rule for days means "and", and says neither where the weekday is a numbered one. So it is asked for the
time, the days and the months one by one, and they are put together here. Pure functions; the expression is a valid one.
"""

# ruff: noqa: PLC0415 - an import waits for the command that needs it, for each costs time at every call

import re

from lnmt_scheduler.jobs import units
from lnmt_scheduler.supervisor import cron

#: What has the import name cron_descriptor.
PACKAGE = "cron-descriptor"


def describe(text: str, job_id: str) -> str:
    """The expression in words; `H` as for a job of this id. Raises ImportError where the extra is not installed."""
    words = cron.plain(text, job_id)
    match words:
        case ["@reboot"]:
            return "When the daemon starts, once a boot"
        case ["@every", interval]:
            return f"Every {units.format_duration(units.duration(interval))}, counted from 1970 on"
    *time, date, month, weekday = words
    when = _describe(*time, "*", "*", "*")
    dates, weekdays = (
        " and ".join(filter(None, (_describe(*time, *days).removeprefix(when).removeprefix(", ") for days in asked)))
        for asked in (
            [(part, "*", "*") for part in _parts(date)],
            [("*", "*", part) for part in _parts(weekday)],
        )
    )
    months = _describe(*time, "*", month, "*").removeprefix(when)
    if dates and weekdays:
        both = date.startswith("*") or weekday.startswith("*")
        weekdays = f"{'and' if both else 'or'} {weekdays.removeprefix('only ')}"
    return "".join([when, *(f", {days}" for days in (dates, weekdays) if days), months])


def _parts(field: str) -> list[str]:
    """The items of a list of days that can be told together; none for every day."""
    if field == "*":
        return []
    items = field.upper().split(",")
    rare = [item for item in items if re.fullmatch("L.*|.+L|.+#.+", item)]
    plain = ",".join(item for item in items if item not in rare)
    return [plain, *rare] if plain else rare


def _describe(*fields: str) -> str:
    import cron_descriptor  # type: ignore[import-untyped]  # ships none

    options = cron_descriptor.Options()
    options.use_24hour_time_format = True
    # Else the language is that of the caller's locale, and the rest of the sentence is English.
    options.locale_code = "en_US"
    return str(cron_descriptor.ExpressionDescriptor(" ".join(fields), options).get_description())
