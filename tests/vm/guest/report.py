"""In the guest: a plugin of pytest that tells the host how each test ended, on the machine's first serial line."""

import json
import os
import time
from typing import NoReturn

import pytest

_LINE = "/dev/ttyS0"
#: It has brought this module here, and is not for the programs under test.
os.environ.pop("PYTHONPATH", None)


def tell(**what: object) -> None:
    """One object to the host, at once."""
    fd = os.open(_LINE, os.O_WRONLY | os.O_NOCTTY)
    try:
        data = json.dumps(what).encode() + b"\n"
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def cut_power() -> NoReturn:
    """Have the host cut the power, now: nothing after this happens."""
    tell(cut=True)
    while True:
        time.sleep(60)


def pytest_runtest_logstart(nodeid: str) -> None:
    tell(begun=nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        why = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else report.longreprtext
        outcome = report.outcome if report.when == "call" or report.skipped else f"failed in {report.when}"
        tell(test=report.nodeid, outcome=outcome, why=why, seconds=round(report.duration, 1))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.outcome != "passed":
        outcome = "skipped" if report.skipped else "failed in collecting"
        tell(test=report.nodeid, outcome=outcome, why=str(report.longreprtext or report.longrepr), seconds=0)
