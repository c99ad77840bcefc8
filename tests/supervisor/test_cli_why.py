import json

import pytest
import samples

ANSWER = {
    "job_id": "b",
    "time": samples.ms("2024-01-15T02:00:00"),
    "answer": "02:00 slot skipped: gate on a, whose 02:00 run failed (exit 3) after 3 attempts",
    "run_id": 7,
    "slot": samples.ms("2024-01-15T02:00:00"),
    "status": "skipped",
    "reason": "dependency",
}


@pytest.fixture
def asked(schedctl):
    """What the daemon was asked."""
    found = []

    def why(fields):
        found.append(fields)
        return ANSWER

    schedctl.serve(why=why)
    return found


def test_the_answer_is_one_line(schedctl, asked):
    done = schedctl("why", "b", "2024-01-15T02:00")
    assert (done.code, done.out) == (0, f"b: {ANSWER['answer']}\n")
    assert asked == [{"job_id": "b", "at": ANSWER["time"], "span": 60_000}]


def test_a_program_gets_the_run_too(schedctl, asked):
    found = json.loads(schedctl("why", "b", "2024-01-15T02:00", "-o", "json").out)
    assert found == {**ANSWER, "time": "2024-01-15T02:00:00.000Z", "slot": "2024-01-15T02:00:00.000Z"}


@pytest.mark.parametrize(
    ("text", "span"), [("02:00", 60_000), ("2:00", 60_000), ("02:00:30", 1_000), ("2024-01-15T02:00:00Z", 1_000)]
)
def test_a_minute_is_meant_unless_seconds_are_written(schedctl, asked, text, span):
    assert schedctl("why", "b", text).code == 0
    assert asked[0]["span"] == span
    assert asked[0]["at"] % 86_400_000 in (7_200_000, 7_230_000)


def test_now_is_meant_without_a_time(schedctl, asked):
    schedctl("why", "b")
    assert asked[0]["at"] is None


def test_a_time_that_is_none_is_a_mistake(schedctl):
    done = schedctl("why", "b", "soon")
    assert done.code == 2
    assert "'soon' is no time such as 02:00" in done.err
