"""The list of what was tried, printed at the end of a test run that tried any of it; tests/conftest.py hooks it in.

Not in this folder's own conftest.py, which the process that writes the summary has not read where others run the tests.
"""

import os

from escape import catalogue


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
