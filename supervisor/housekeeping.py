"""Retention: once at start and once an hour, history, output and audit that are older or more than the settings keep go.

A batch a turn, so that a store with millions of rows to forget holds up nothing. A job keeps its newest rows whatever their
age, since gates and lists ask for them; the store sees to that.
"""

from collections.abc import Callable

from lnmt_scheduler.supervisor import clock, config, loop, output, rows, store

_PERIOD_S = 3600.0
#: Runs of one turn: each is taken out of every index, at places all over a large file.
BATCH = 50


class Housekeeping:
    def __init__(
        self, history: store.Store, events: loop.Loop, settings: Callable[[], config.Settings], *, output_dir: str
    ) -> None:
        self._store = history
        self._loop = events
        self._settings = settings
        self._output_dir = output_dir

    def start(self) -> None:
        self._loop.call_soon(self._forget)

    def _forget(self, cursor: rows.Cursor | None = None) -> None:
        """One batch of what is too old or too many; then the next one, and at the end what is too large."""
        settings = self._settings()
        age_ms = round(settings.retention_age * 1000)
        swept = self._store.retention(clock.now_ms(), age_ms, settings.retention_runs, BATCH, cursor)
        for run_id, queued in swept.gone:
            output.remove(output.path_of(self._output_dir, run_id, queued))
        if swept.cursor is not None:
            self._loop.call_soon(lambda: self._forget(swept.cursor))
        else:
            over = self._store.output_total() - settings.retention_size
            self._loop.call_soon(lambda: self._shrink(over))

    def _shrink(self, over: int) -> None:
        """Remove the oldest output until `over` bytes are gone, a batch a turn."""
        found = self._store.runs_with_output_oldest_first(BATCH) if over > 0 else []
        for run_id, queued, stored in found:
            if over <= 0:
                break
            output.remove(output.path_of(self._output_dir, run_id, queued))
            self._store.update_run(run_id, output_stored=0)
            over -= stored
        if over > 0 and found:
            self._loop.call_soon(lambda: self._shrink(over))
        else:
            self._loop.call_soon(self._forget_audit)

    def _forget_audit(self) -> None:
        """Delete the oldest entries of the audit, a batch a turn; then rest for an hour."""
        age_ms = round(self._settings().retention_audit * 1000)
        if self._store.audit_forget(clock.now_ms() - age_ms, BATCH):
            self._loop.call_soon(self._forget_audit)
        else:
            self._loop.call_at(clock.monotonic() + _PERIOD_S, self._forget)
