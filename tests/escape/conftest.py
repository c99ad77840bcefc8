"""The sites of this run, made when first asked for, and the list of what was tried at its end."""

import contextlib
import os
from collections.abc import Iterator

import pytest
from escape import catalogue, site


class Sites:
    """Mode -> its site, or why there is none."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self._stack = contextlib.ExitStack()
        self._made: dict[str, site.Site | LookupError] = {}

    def get(self, mode: str) -> site.Site:
        if mode not in self._made:
            try:
                user = self._request.getfixturevalue("ordinary_user") if mode != "a" else None
                self._made[mode] = self._stack.enter_context(site.open_site(mode, user))
            except LookupError as error:
                self._made[mode] = error
        found = self._made[mode]
        if isinstance(found, LookupError):
            pytest.skip(str(found))
        return found

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="session")
def sites(request: pytest.FixtureRequest) -> Iterator[Sites]:
    made = Sites(request)
    yield made
    made.close()


def pytest_terminal_summary(terminalreporter) -> None:
    """What was tried, where, and what could not be tried here and why."""
    lines: dict[str, dict[str, list[str]]] = {}
    for kind in ("passed", "failed", "skipped"):
        for report in terminalreporter.getreports(kind):
            for name, value in getattr(report, "user_properties", ()):
                if name == "escape" and (report.when == "call" or kind == "skipped"):
                    case, where = value
                    said = report.longrepr[2].removeprefix("Skipped: ")[:80] if kind == "skipped" else kind
                    lines.setdefault(case, {}).setdefault(said, []).append(where)
    if not lines:
        return
    terminalreporter.section(f"hostile catalogue, as {'root' if os.geteuid() == 0 else 'an ordinary account'}")
    order = {f"{case.number}. {case.tried}": number for number, case in enumerate(catalogue.CASES)}
    for case, outcomes in sorted(lines.items(), key=lambda line: order[line[0]]):
        said = "; ".join(f"{outcome} ({', '.join(where)})" for outcome, where in outcomes.items())
        terminalreporter.write_line(f"{case:60} {said}")
