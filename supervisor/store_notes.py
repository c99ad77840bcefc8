"""What the store keeps beside jobs and runs: the audit, words to remember, and a change of many jobs under way.

Part of store.Store. The audit is in the order of its ids, which is that of its times but for a clock that was set back.
"""

from collections.abc import Iterable
from typing import Any

from lnmt_scheduler.supervisor import rows, statements
from lnmt_scheduler.supervisor.statements import SQL

_MOST = (1 << 63) - 1
_audit = rows.reader(rows.AuditRow)
_planned = rows.reader(rows.Planned)


class Notes(statements.Statements):
    def audit_add(
        self, *, time: int, uid: int, user: str, action: str, target: str, before: Any = None, after: Any = None
    ) -> int:
        """Note who did what; `before` and `after` are JSON-like. Returns its id."""
        entry = self._insert(
            SQL["audit.add"],
            time,
            uid,
            rows.text(user),
            action,
            rows.text(target),
            rows.encode("before", before),
            rows.encode("after", after),
        )
        assert entry is not None  # the statement allows no conflict
        return entry

    def audit_page(self, before: int | None = None, limit: int = 100) -> list[rows.AuditRow]:
        """Entries, newest first; `before` is the id of the last one of the page before."""
        return [_audit(row) for row in self._rows(SQL["audit.page"], _MOST if before is None else before, limit)]

    def audit_of(self, target: str, limit: int = 50) -> list[rows.AuditRow]:
        """What was done to one target, newest first, among the last 20,000 entries."""
        return [_audit(row) for row in self._rows(SQL["audit.of"], rows.text(target), limit)]

    def audit_forget(self, before: int, batch: int) -> int:
        """Delete the entries of before this moment among the `batch` oldest; how many went."""
        return self._change(SQL["audit.forget"], batch, before)

    def meta_get(self, key: str) -> str | None:
        """What meta_set kept under this key."""
        found = self._first(SQL["meta.get"], key)
        return None if found is None else str(found[0])

    def meta_set(self, key: str, value: str) -> None:
        """Remember a word; it replaces the one before."""
        self._change(SQL["meta.set"], key, value)

    def meta_drop(self, key: str) -> None:
        """Remember it no more."""
        self._change(SQL["meta.drop"], key)

    def meta_keys(self, prefix: str) -> list[str]:
        """The ASCII keys that begin so."""
        return [key for (key,) in self._rows(SQL["meta.keys"], prefix, f"{prefix}\uffff")]

    # A change of many jobs.

    def planned_add(self, planned: Iterable[rows.Planned]) -> None:
        """Write down what is to become of these jobs, after what was written down before."""
        self._change_all(
            SQL["planned.add"],
            (
                (
                    each.action,
                    each.job_id,
                    each.source,
                    rows.encode("given", each.given),
                    rows.encode("origins", each.origins),
                )
                for each in planned
            ),
        )

    def planned_page(self, limit: int) -> list[rows.Planned]:
        """The next ones, in order."""
        return [_planned(row) for row in self._rows(SQL["planned.page"], limit)]

    def planned_drop(self, limit: int) -> int:
        """Forget so many of the next ones; how many there were."""
        return self._change(SQL["planned.drop"], limit)
