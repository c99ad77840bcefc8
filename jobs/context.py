"""What a job function is given as `context`, under the name by which programs import it.

The class is in bridge.py, the one file that also runs where our package is not installed.
"""

import os

from lnmt_scheduler.jobs.bridge import Facts, JobContext

__all__ = ["Facts", "JobContext", "folder_of", "id_of"]


def folder_of(context: JobContext | None) -> str:
    """The job's own directory; of a function that is called by hand LNMT_STATE_DIR, or else where it is called."""
    return context.state_dir if context is not None else os.environ.get("LNMT_STATE_DIR", ".")


def id_of(context: JobContext | None) -> str:
    """The job's id; of a function that is called by hand LNMT_JOB_ID, or else a word for that."""
    return context.job_id if context is not None else os.environ.get("LNMT_JOB_ID", "by-hand")
