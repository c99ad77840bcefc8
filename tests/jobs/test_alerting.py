"""When an alert is due: histories of conditions as tables, and what each rule sees."""

import itertools
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from lnmt_scheduler.jobs import alerting, delivery

HOUR = 3_600_000
NOW = round(datetime(2026, 3, 2, 12, tzinfo=UTC).timestamp() * 1000)


def rule(**more):
    return delivery.convert({"name": "r", "when": "failing", **more}, alerting.Rule)


def job(runs="", **more):
    """`runs` is a letter a run, the newest last: o completed, w with a warning, f failed, c cancelled."""
    words = {
        "o": ("completed", None),
        "w": ("completed", "warning"),
        "f": ("failed", "exit"),
        "c": ("cancelled", "cancelled"),
    }
    told = [(number, *words[letter], NOW - HOUR, "Traceback\nboom") for number, letter in enumerate(runs, 1)]
    base = {"job_id": "a", "enabled": True, "tags": frozenset(), "last_success": None, "added": NOW, "results": ()}
    return alerting.Job(**{**base, "runs": told[::-1], **more})


def texts(rules, *jobs):
    return [each.text for each in alerting.conditions(rules, jobs, NOW)]


@pytest.mark.parametrize(
    ("runs", "least", "text"),
    [
        ("of", 1, "failed 1 time in a row; run 2: exit: boom"),
        ("fff", 3, "failed 3 times in a row; run 3: exit: boom"),
        ("off", 3, None),
        ("ffo", 1, None),
        ("ofcf", 2, "failed 2 times in a row; run 4: exit: boom"),
        ("", 1, None),
    ],
)
def test_failing_counts_the_last_runs(runs, least, text):
    assert texts([rule(runs=least)], job(runs)) == ([] if text is None else [text])


@pytest.mark.parametrize(("runs", "warns"), [("ow", True), ("wc", True), ("wo", False), ("wf", False), ("", False)])
def test_warning_is_for_a_last_run_that_completed_so(runs, warns):
    assert bool(texts([rule(when="warning")], job(runs))) is warns


@pytest.mark.parametrize(
    ("when", "before", "after", "told"),
    [
        # Runs leave the history; what is known of the job stays.
        ("failing", job("off", failing_since=1), job(failing_since=1), []),
        ("failing", job("off", failing_since=1), job("f", failing_since=1), []),
        ("failing", job("off", failing_since=1), job("cc", failing_since=1), []),
        ("failing", job("off", failing_since=1), job("o"), ["recovered"]),
        ("failing", job("off", failing_since=1), job("of", failing_since=1), ["recovered"]),
        ("failing", job(), job("f", failing_since=1), []),
        ("warning", job("w", last_success=1), job(last_success=1), []),
        ("warning", job("w", last_success=1), job("o", last_success=1), ["recovered"]),
        ("warning", job("w", last_success=1), job("f", last_success=1), ["recovered"]),
        # It was made anew.
        ("warning", job("w", last_success=1), job(), ["recovered"]),
    ],
)
def test_what_the_history_no_longer_says_is_not_over(when, before, after, told):
    state, one, alerts = alerting.State(), rule(when=when, runs=2), []
    for number, each in enumerate((before, after)):
        state, alerts = alerting.step(state, [one], alerting.conditions([one], [each], NOW), NOW + number)
    assert [each.phase for each in alerts] == told


def test_what_is_not_known_to_be_over_is_told_again_in_the_words_that_it_was_told_in():
    one, state, texts = rule(runs=1), alerting.State(), []
    for at, each in ((NOW, job("f", failing_since=1)), (NOW + 5 * HOUR, job(failing_since=1))):
        state, alerts = alerting.step(state, [one], alerting.conditions([one], [each], at), at)
        texts += [(alert.phase, alert.text) for alert in alerts]
    words = "failed 1 time in a row; run 1: exit: boom"
    assert texts == [("first", words), ("still", words)]


def test_silent_counts_from_the_last_success_or_else_from_when_the_job_was_added():
    silent = rule(when="silent", after="2h")
    assert texts([silent], job(last_success=NOW - HOUR)) == []
    assert texts([silent], job(last_success=NOW - 3 * HOUR))[0].startswith("no success since 2026-")
    assert texts([silent], job(added=NOW - HOUR)) == []
    assert texts([silent], job(added=NOW - 3 * HOUR)) == ["never succeeded"]


def test_missed_counts_slots_that_did_not_run_of_late():
    missed = ((NOW - HOUR, "overlap"), (NOW - 2 * HOUR, "missed"), (NOW - 90 * HOUR, "missed"))
    assert texts([rule(when="missed", after="1d")], job(missed=missed)) == ["2 slots did not run: missed, overlap"]


def test_result_looks_into_what_the_job_returned():
    found = job(results=[(6, {"checks": {"cpu": "critical"}}), (7, {"checks": {"disk": "critical"}, "n": 0})])
    assert texts([rule(when="result", key="checks.disk", values=["warning", "critical"])], found) == [
        'checks.disk is "critical"'
    ]
    for key in ("checks.cpu", "n.disk", "checks"):
        assert texts([rule(when="result", key=key, values=["critical"])], found) == []


def test_a_rule_is_for_the_jobs_that_it_names_while_they_are_enabled():
    jobs = [
        job("f", job_id=name, tags=frozenset(tags)) for name, *tags in (("backup_a", "x"), ("backup_b",), ("poll", "x"))
    ]
    jobs.append(job("f", job_id="backup_off", tags=frozenset({"x"}), enabled=False))
    found = alerting.conditions([rule(jobs=["backup_*"], tag="x")], jobs, NOW)
    assert [each.job_id for each in found] == ["backup_a"]


def story(turns, **more):
    """What is told at each turn: (hours from the beginning, whether it is wrong) -> phases."""
    state, told, keys = alerting.State(), [], set()
    one = rule(repeat="2h", **more)
    for hours, wrong in turns:
        found = [alerting.Condition(rule="r", job_id="a", text="bad")] if wrong else []
        state, alerts = alerting.step(state, [one], found, NOW + round(hours * HOUR))
        told.append([each.phase for each in alerts])
        keys |= {each.key for each in alerts}
    assert len(keys) == sum(map(len, told))
    return told


@pytest.mark.parametrize(
    ("turns", "told"),
    [
        ([(0, False), (1, True), (1.1, True), (1.2, False)], [[], ["first"], [], ["recovered"]]),
        # Again after 2, 4 and 8 hours, and not in between.
        (
            [(0, True), (1.9, True), (2, True), (5.9, True), (6, True), (13, True), (14, True)],
            [["first"], [], ["still"], [], ["still"], [], ["still"]],
        ),
        ([(0, True), (0.1, False), (0.2, True)], [["first"], ["recovered"], ["first"]]),
    ],
)
def test_a_condition_is_told_at_first_again_while_it_lasts_and_when_it_is_over(turns, told):
    assert story(turns) == told


def test_the_same_decision_has_the_same_key_however_often_it_is_made():
    found = [alerting.Condition(rule="r", job_id="a", text="bad")]
    again = [alerting.step(alerting.State(), [rule()], found, NOW)[1][0].key for _ in range(2)]
    assert len(set(again)) == 1


def test_what_happens_once_is_told_once_a_run():
    state, one = alerting.State(), rule(when="changed", key="changed")
    told = []
    looks = (
        {1: ["r1"]},
        {1: ["r1"]},
        {1: ["r1"], 2: []},
        {3: ["r1"]},
        {3: ["r1"]},
        {3: ["r1"], 4: ["r2"], 5: [], 6: ["r3"]},
    )
    for runs in looks:
        results = [(run_id, {"changed": changed}) for run_id, changed in runs.items()]
        found = alerting.conditions([one], [job(results=results)], NOW)
        state, alerts = alerting.step(state, [one], found, NOW)
        told.append([each.text for each in alerts])
    # Also of runs that later ones have hidden since the last look.
    assert told == [['changed: ["r1"]'], [], [], ['changed: ["r1"]'], [], ['changed: ["r2"]', 'changed: ["r3"]']]


@pytest.mark.parametrize("when", ["result", "changed"])
@pytest.mark.parametrize(
    ("key", "lacks", "told"),
    [
        ("devices.r1", {"devices"}, True),
        ("devices.r1", {""}, True),
        ("", {"devices"}, True),
        ("counts", {"devices"}, False),
    ],
)
def test_what_is_too_large_for_a_rule_is_said_while_it_is(when, key, lacks, told):
    one, state, phases = rule(when=when, key=key, values=["down"]), alerting.State(), []
    for each in (lacks, lacks, ()):
        found = alerting.conditions(
            [one], [job(results=[(1, {"counts": 0} if key else None)], lacks=frozenset(each))], NOW
        )
        state, alerts = alerting.step(state, [one], found, NOW)
        phases += [alert.phase for alert in alerts]
    assert phases == (["first", "recovered"] if told else [])


def test_a_rule_that_was_taken_away_ends_in_silence():
    state, _ = alerting.step(alerting.State(), [rule()], [alerting.Condition(rule="r", job_id="a", text="x")], NOW)
    after, alerts = alerting.step(state, [rule(name="other")], [], NOW)
    assert (after.open, alerts) == ({}, [])


@pytest.mark.parametrize(
    ("at", "quiet", "end"),
    [
        ("22:30", ("22:00", "07:00"), "2026-03-03 07:00"),
        ("06:59", ("22:00", "07:00"), "2026-03-02 07:00"),
        ("07:00", ("22:00", "07:00"), None),
        ("13:00", ("12:00", "14:00"), "2026-03-02 14:00"),
        ("11:59", ("12:00", "14:00"), None),
        ("12:00", ("12:00", "12:00"), None),
    ],
)
def test_quiet_hours_end_at_their_end_in_the_zone_of_people(at, quiet, end):
    zone = ZoneInfo("Europe/Berlin")
    moment = datetime.fromisoformat(f"2026-03-02 {at}").replace(tzinfo=zone)
    hours = delivery.convert({"from": quiet[0], "until": quiet[1]}, alerting.Quiet)
    found = alerting.quiet_until(round(moment.timestamp() * 1000), hours, zone)
    shown = None if found is None else datetime.fromtimestamp(found / 1000, zone).strftime("%Y-%m-%d %H:%M")
    assert shown == end


@pytest.mark.parametrize("severity", ["warning", "critical"])
def test_in_quiet_hours_only_what_is_critical_is_due_at_once(severity):
    quiet = delivery.convert({"from": "11:00", "until": "13:00"}, alerting.Quiet)
    found = [alerting.Condition(rule="r", job_id="a", text="x")]
    ((alert,),) = alerting.step(alerting.State(), [rule(severity=severity)], found, NOW, quiet, UTC)[1:]
    assert alert.due == (NOW if severity == "critical" else NOW + HOUR)


def test_repeats_are_spread_out_to_a_day_at_most():
    one, state, times = rule(repeat="4h"), alerting.State(), []
    for hour in itertools.count():
        state, alerts = alerting.step(
            state, [one], [alerting.Condition(rule="r", job_id="a", text="x")], NOW + hour * HOUR
        )
        times += [hour] * len(alerts)
        if hour > 100:
            break
    assert times == [0, 4, 12, 28, 52, 76, 100]
