"""When an observation is news: a state machine for each thing that is polled, pure, over injected time.

One lost packet is no outage: a state changes after so many observations in a row that say otherwise. Something that comes
and goes all the time is one piece of news ("flapping"), not one every minute, until it has been quiet again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

UNKNOWN, UP, DOWN, FLAPPING = "unknown", "up", "down", "flapping"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    #: Observations in a row after which it is down, or up again.
    down_after: int = 2
    up_after: int = 2
    #: So many turns within the window, in seconds, are flapping; half as many are quiet again.
    flap_turns: int = 6
    flap_window: float = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    status: str = UNKNOWN
    #: When it became so, in seconds since the epoch.
    since: float = 0.0
    #: What was seen last, and how often in a row; None: nothing yet.
    seen: bool | None = None
    streak: int = 0
    #: When what was seen turned into the opposite, oldest first; only those within the window.
    turns: tuple[float, ...] = ()

    def packed(self) -> list[Any]:
        """As JSON can keep it."""
        return [self.status, self.since, self.seen, self.streak, list(self.turns)]

    @classmethod
    def unpacked(cls, values: Sequence[Any]) -> Self:
        """ValueError if that is not what packed() made."""
        try:
            status, since, seen, streak, turns = values
            if status not in (UNKNOWN, UP, DOWN, FLAPPING) or seen not in (None, False, True):
                raise ValueError(status, seen)
            return cls(
                status=status,
                since=float(since),
                seen=seen,
                streak=int(streak),
                turns=tuple(float(each) for each in turns),
            )
        except TypeError as error:
            raise ValueError(str(error)) from None


def step(state: State, good: bool, now: float, rules: Rules) -> tuple[State, str | None]:
    """The next state, and the status that it came from if that it has changed is news."""
    turned = state.seen is not None and good != state.seen
    turns = tuple(each for each in state.turns if 0 <= now - each < rules.flap_window) + ((now,) if turned else ())
    seen = replace(
        state,
        seen=good,
        streak=1 if turned or state.seen is None else state.streak + 1,
        turns=turns[-rules.flap_turns :],
    )
    status = _status(seen, rules)
    if status == state.status:
        return seen, None
    # That what was never looked at before is well is no news.
    news = None if (state.status, status) == (UNKNOWN, UP) else state.status
    return replace(seen, status=status, since=now), news


def _status(seen: State, rules: Rules) -> str:
    if seen.status == FLAPPING:
        if len(seen.turns) > rules.flap_turns // 2:
            return FLAPPING
    elif len(seen.turns) >= rules.flap_turns:
        return FLAPPING
    if seen.seen and (seen.streak >= rules.up_after or seen.status == UNKNOWN):
        return UP
    if not seen.seen and seen.streak >= rules.down_after:
        return DOWN
    return seen.status
