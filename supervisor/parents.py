"""What a run is told of the jobs that it depends on: which of their runs it builds on, and what these returned.

Which runs these are is settled once, when the run starts for the first time, and kept in its row, so that a retry works
on the same. What they returned is read when an attempt is handed over, as far as it fits.
"""

from collections.abc import Mapping
from typing import Any

from lnmt_scheduler.ipc import codec
from lnmt_scheduler.supervisor import rows, store, views

#: Bytes of msgpack that the results of all parents may have together.
LIMIT = 1 << 20


def told(history: store.Store, run_ids: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Id of each parent -> the facts of its run, with its result.

    `result` is None if it returned nothing, or if there is no room for it: `result_bytes` says how much it is.
    """
    found: dict[str, dict[str, Any]] = {}
    left = LIMIT
    for job_id, run_id in run_ids.items():
        row = history.run(run_id)
        if row is None:
            continue  # retention has taken it
        size, result = row.result_bytes or 0, None
        if 0 < size <= left:
            left -= size
            result = _unpacked(history.result(run_id) or b"")
        found[job_id] = {**views.facts(rows.as_map(row)), "job_id": job_id, "result": result, "result_bytes": size}
    return found


def _unpacked(data: bytes) -> Any:
    try:
        return codec.unpack(data)
    except codec.ProtocolError:  # a job may report what it likes
        return None
