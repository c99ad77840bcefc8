"""Histories of one thing that is polled: + well, - not well, once a minute; and when that is news."""

import pytest

from lnmt_scheduler.jobs import damping

RULES = damping.Rules(down_after=2, up_after=2, flap_turns=6, flap_window=3600)


def live(history: str, rules: damping.Rules = RULES, minute: float = 60.0) -> list[tuple[int, str, str]]:
    """All news: at which observation, from what, to what. The state goes through its packed form each time."""
    state = damping.State()
    news = []
    for number, sign in enumerate(history, 1):
        state = damping.State.unpacked(state.packed())
        state, before = damping.step(state, sign == "+", number * minute, rules)
        if before is not None:
            news.append((number, before, state.status))
    return news


@pytest.mark.parametrize(
    ("history", "news"),
    [
        ("+++++", []),
        ("++-+++", []),
        ("++--", [(4, "up", "down")]),
        ("++---", [(4, "up", "down")]),
        ("++--+-++", [(4, "up", "down"), (8, "down", "up")]),
        ("--", [(2, "unknown", "down")]),
        ("-+", []),
        ("+-+-+-+-+-", [(7, "up", "flapping")]),
    ],
)
def test_only_what_lasts_is_news(history, news):
    assert live(history) == news


def test_what_flaps_is_news_again_only_once_it_has_been_quiet():
    news = live("+-" * 50 + "+" * 70)
    assert news[0] == (7, "up", "flapping")
    ((when, before, after),) = news[1:]
    assert (before, after) == ("flapping", "up")
    # The last six turns are those before observation 101; all but three of them have left the window an hour later.
    assert 155 < when < 162


def test_what_ends_down_after_flapping_is_told_as_down():
    assert live("+-" * 50 + "-" * 70)[-1][1:] == ("flapping", "down")


def test_slow_turns_are_no_flapping():
    assert live("++--" * 8, minute=1000.0) == [
        (number, *(("up", "down") if number % 4 == 0 else ("down", "up"))) for number in range(4, 33, 2)
    ]


def test_a_clock_that_is_set_back_forgets_turns_and_nothing_else():
    state = damping.State()
    for now in (1000.0, 1060.0, 1120.0):
        state, _ = damping.step(state, now != 1060.0, now, RULES)
    assert len(state.turns) == 2
    state, news = damping.step(state, True, 10.0, RULES)
    assert (state.turns, state.status, news) == ((), "up", None)


@pytest.mark.parametrize(
    "values", [[], ["gone", 0, None, 0, []], ["up", "x", None, 0, []], ["up", 0, 2, 0, []], None, ["up", 0, True, 0, 5]]
)
def test_what_is_no_state_is_refused(values):
    with pytest.raises(ValueError):
        damping.State.unpacked(values)


def test_turns_that_are_remembered_are_few_however_long_it_flaps():
    state = damping.State()
    for number in range(10_000):
        state, _ = damping.step(state, bool(number % 2), float(number), RULES)
    assert len(state.turns) == RULES.flap_turns
