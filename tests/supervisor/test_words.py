import pytest

from lnmt_scheduler.supervisor import cron, words


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("30 2 * * *", "At 02:30"),
        ("*/5 * * * *", "Every 5 minutes"),
        ("*/10 * * * * *", "Every 10 seconds"),
        ("@daily", "At 00:00"),
        ("@hourly", "Every hour"),
        ("@every 90s", "Every 1m30s, counted from 1970 on"),
        ("@reboot", "When the daemon starts, once a boot"),
        ("0 0 * jul THU", "At 00:00, only on Thursday, only in July"),
        ("0 0 L * *", "At 00:00, on the last day of the month"),
        ("0 0 * * L5", "At 00:00, on the last Friday of the month"),
        # A list of days and of what is no day of the week by itself.
        ("0 0 * * 1,5L", "At 00:00, only on Monday and on the last Friday of the month"),
        ("0 0 1,L * *", "At 00:00, on day 1 of the month and on the last day of the month"),
        # Debian's rule for days: either, or both if one begins with a star.
        ("0 0 13 * 5", "At 00:00, on day 13 of the month, or on Friday"),
        ("0 0 */2 * 1", "At 00:00, every 2 days, and on Monday"),
        ("0 0 1 jan 1#2", "At 00:00, on day 1 of the month, or on the second Monday of the month, only in January"),
        ("0 0 */1 * *", "At 00:00"),
    ],
)
def test_an_expression_is_said_in_words(text, said):
    cron.parse(text, "UTC", "job")
    assert words.describe(text, "job") == said


def test_the_words_for_both_days_and_either_are_what_the_schedule_does():
    for text, joined in (("0 0 13 * 5", "or on"), ("0 0 */2 * 1", "and on")):
        assert joined in words.describe(text, "job")
    either, both = (cron.parse(text, "UTC", "job") for text in ("0 0 13 * 5", "0 0 */2 * 1"))
    # Friday the 2nd of January 2026; Monday the 5th, which is odd.
    assert either.next_after(1767225600000) == 1767312000000
    assert both.next_after(1767225600000) == 1767571200000


def test_an_h_is_said_as_what_it_is_for_the_job():
    at = cron.parse("H H * * *", "UTC", "backup").next_after(-1) // 60_000
    assert words.describe("H H * * *", "backup") == f"At {at // 60:02}:{at % 60:02}"
