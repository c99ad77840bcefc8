"""One next fire of a schedule, in a zone with summer time: ours beside croniter's own, on aware datetimes."""

import time
import zoneinfo
from datetime import UTC, datetime

import common
import croniter

from lnmt_scheduler.supervisor import cron

EXPRESSION, ZONE = "*/7 3-20 * * 1-5", "Europe/Berlin"


def main() -> None:
    schedule = cron.parse(EXPRESSION, ZONE, "job")
    now = int(time.time()) * 1000
    fires = 2000

    def ours() -> None:
        at: int | None = now
        for _ in range(fires):
            at = schedule.next_after(at or now)

    def theirs() -> None:
        asked = croniter.croniter(
            EXPRESSION, datetime.fromtimestamp(now / 1000, UTC).astimezone(zoneinfo.ZoneInfo(ZONE))
        )
        for _ in range(fires):
            asked.get_next(datetime)

    mine, other = common.median(ours, 5) / fires, common.median(theirs, 5) / fires
    common.say("one next fire", f"{mine * 1e6:.1f} µs", f"croniter {other * 1e6:.1f} µs", mine / other)


if __name__ == "__main__":
    main()
