"""The daemon and its clients. Names of the Python API are loaded on first use, so that the launcher stays small."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lnmt_scheduler.jobs.model import JobConfig, JobPriority, JobResult, JobStatus
    from lnmt_scheduler.supervisor.scheduler import LNMTScheduler

__all__ = ["JobConfig", "JobPriority", "JobResult", "JobStatus", "LNMTScheduler"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "lnmt_scheduler.supervisor.scheduler" if name == "LNMTScheduler" else "lnmt_scheduler.jobs.model"
    return getattr(import_module(home), name)
