"""What a job function is given as `context`, under the name by which programs import it.

The class is in bridge.py, the one file that also runs where our package is not installed.
"""

from lnmt_scheduler.jobs.bridge import Facts, JobContext

__all__ = ["Facts", "JobContext"]
