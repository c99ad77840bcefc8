"""The seed's example jobs and runs, as rows of the store and as the views that a daemon would send of them."""

from datetime import UTC, datetime

from lnmt_scheduler.supervisor import views


def ms(text):
    """Epoch milliseconds of a time in UTC."""
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def job_row(job_id="network_status_poll", *, next_slot="2024-01-15T14:32:00", given=None, **columns):
    keys = {
        "id": job_id,
        "name": "Network Status Polling",
        "module": "lnmt.polling",
        "function": "LNMTPollingJobs.poll_network_status",
        "schedule": "*/2 * * * *",
        "priority": 3,
        "sandbox": {"profile": "standard"},
        **(given or {}),
    }
    return {
        "uid": 1,
        "job_id": job_id,
        "given": keys,
        "origins": dict.fromkeys(keys.keys() - {"sandbox"}, "job"),
        "hash": "0",
        "source": "cli",
        "owner": 0,
        "enabled": True,
        "watermark": 0,
        "next_slot": next_slot and ms(next_slot),
        "last_success": None,
        "failing_since": None,
        "added": 0,
        "changed": 0,
        "removed": None,
        **columns,
    }


def run_row(run_id=4711, job_id="network_status_poll", **columns):
    return {
        "run_id": run_id,
        "job_uid": 1,
        "job_id": job_id,
        "slot": ms("2024-01-15T14:30:00"),
        "slot_last": None,
        "slots": 1,
        "trigger": "schedule",
        "status": "completed",
        "reason": None,
        "priority": 3,
        "queued": ms("2024-01-15T14:30:15"),
        "start_time": ms("2024-01-15T14:30:15"),
        "end_time": ms("2024-01-15T14:30:17"),
        "duration": 2.156789,
        "gate_until": None,
        "retry_at": None,
        "attempts": 1,
        "max_attempts": 4,
        "exit_code": 0,
        "signal": None,
        "output_bytes": 0,
        "output_stored": 0,
        "truncated": False,
        "cpu_seconds": 0.031,
        "max_memory": 12_582_912,
        "processes": None,
        "uid": 0,
        "profile": "standard",
        "hash": "0",
        "retry_of": None,
        "requested_by": None,
        "request": None,
        "enforced": {"pid namespace": "enforced"},
        "killed_count": 0,
        "killed": (),
        "error": None,
        "notes": None,
        "result_bytes": None,
        **columns,
    }


def job(*args, last=None, **columns):
    return views.job_view(job_row(*args, **columns), last, last and last["start_time"])


def run(*args, **columns):
    return views.run_view(run_row(*args, **columns))


def seed_jobs():
    """The three jobs of the seed's first session."""
    alert = {"name": "Alert Processing and Notification", "schedule": "*/15 * * * *", "priority": 4}
    metrics = {"name": "System Metrics Collection", "schedule": "*/5 * * * *"}
    return [
        job("alert_processor", next_slot="2024-01-15T14:45:00", given=alert),
        job("network_status_poll", next_slot="2024-01-15T14:32:00"),
        job("system_metrics_poll", next_slot="2024-01-15T14:35:00", given=metrics),
    ]


STATE = {
    "pid": 101,
    "launcher_pid": 100,
    "version": "0.1.0",
    "uptime": 5400.25,
    "jobs": 3,
    "running": 1,
    "queued": 0,
    "retrying": 0,
    "store": "ok",
    "next": {"job_id": "network_status_poll", "slot": ms("2024-01-15T14:32:00")},
    "default_profile": "standard",
    "problems": [],
    "launcher_version": "0.1.0",
    "package": "0.1.0",
    "quarantined": [],
    "draining": False,
}
