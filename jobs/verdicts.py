"""What checks come to: each ok, warning, critical or unknown against its thresholds, and all of them in the words of Nagios.

A job that checks ends as a monitoring plugin does: 0, 1, 2 or 3, one line first that says all, then `|` and numbers for
graphs, then a line for each check. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

OK, WARNING, CRITICAL, UNKNOWN = range(4)
WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
#: The worst first.
_ORDER = (CRITICAL, WARNING, UNKNOWN, OK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    #: None: never.
    warning: float | None
    critical: float | None
    #: The less the worse.
    falling: bool = False

    def judge(self, value: float) -> int:
        for verdict, limit in ((CRITICAL, self.critical), (WARNING, self.warning)):
            if limit is not None and (value <= limit if self.falling else value >= limit):
                return verdict
        return OK

    @classmethod
    def of(cls, values: Any, *, falling: bool) -> Self:
        """From `[warning, critical]`; ValueError says what is wrong."""
        if not isinstance(values, (list, tuple)) or len(values) != 2:
            raise ValueError("must be [warning, critical]")
        warning, critical = values
        for each in values:
            if each is not None and (isinstance(each, bool) or not isinstance(each, (int, float))):
                raise ValueError("must be two numbers, or null for never")
        if None not in values and (warning < critical if falling else warning > critical):
            raise ValueError("has a critical threshold that comes before that of warnings")
        return cls(warning=warning, critical=critical, falling=falling)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    #: `disk /srv`, `units`.
    name: str
    verdict: int
    #: What was found, for people.
    text: str
    #: What was judged; None where there is no number.
    value: float | None = None
    unit: str = ""
    limits: Limits | None = None

    @property
    def performance(self) -> str:
        """`'disk /srv'=81.2%;80;90`; empty without a number."""
        if self.value is None or self.limits is None:
            return ""
        label = self.name.replace("'", "").replace("=", "")
        limits = [_number(each, falling=self.limits.falling) for each in (self.limits.warning, self.limits.critical)]
        return f"'{label}'={self.value:g}{self.unit};{limits[0]};{limits[1]}"


def _number(value: float | None, *, falling: bool) -> str:
    if value is None:
        return ""
    return f"{value:g}:" if falling else f"{value:g}"


def judged(name: str, value: float, limits: Limits, text: str, unit: str = "") -> Check:
    return Check(name=name, verdict=limits.judge(value), text=text, value=value, unit=unit, limits=limits)


def unknown(name: str, text: str) -> Check:
    """What could not be found out."""
    return Check(name=name, verdict=UNKNOWN, text=text)


def worst(checks: Sequence[Check]) -> int:
    """The verdict on all; UNKNOWN if there are none."""
    return next((verdict for verdict in _ORDER if any(each.verdict == verdict for each in checks)), UNKNOWN)


def lines(title: str, checks: Sequence[Check]) -> list[str]:
    """As a plugin prints it, the worst first."""
    ordered = sorted(checks, key=lambda each: _ORDER.index(each.verdict))
    verdict = worst(checks)
    bad = [f"{each.name}: {each.text}" for each in ordered if each.verdict != OK]
    numbers = " ".join(filter(None, (each.performance for each in checks)))
    said = "; ".join(bad[:5]) + (f"; and {len(bad) - 5} more" if len(bad) > 5 else "") or f"{len(checks)} checks"
    first = f"{title} {WORDS[verdict]} - {said.replace('|', '/')}" + (f" | {numbers}" if numbers else "")
    return [first, *(f"{WORDS[each.verdict]} {each.name}: {each.text}".replace("|", "/") for each in ordered)]
