"""The reference scenario under faults, and what must hold after it whatever happened: a daemon's day in a tenth of a second.

A round is: one definition is changed; two functions, a command, one that succeeds at its second attempt and one that is ended
by its timeout are started by hand and waited for; a job of every second runs beside them. The jobs witness what they do by
one appended line each, in a file that the daemon knows nothing of. What the daemon acknowledged is written down here.

judge() then waits until all is quiet and holds the daemon to its word: it is up, or can be started again; every acknowledged
change and run is there; no attempt has begun twice, and no more of them than allowed; who completed has witnessed it; every
second has its row; and not one process is left.
"""

import collections
import os
import signal
import socket
import time
from pathlib import Path

import harness
from faults import inject

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import client

MODULE = """
import os

def witness(word):
    line = f"{os.environ['LNMT_RUN_ID']} {os.environ['LNMT_ATTEMPT']} {word}\\n"
    fd = os.open(os.environ["WITNESS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(fd, line.encode())
    os.close(fd)

def one():
    witness("one")
    return 1

def two():
    witness("two")
"""
_SAY = 'echo "$LNMT_RUN_ID $LNMT_ATTEMPT {}" >> "$WITNESS"'
#: Seconds that a client waits for an answer, and the judge for quiet.
_ANSWER, _QUIET = 3.0, 20.0
#: A run of these is over when its one attempt is; `flaky` has two.
ATTEMPTS = {"one": 1, "two": 1, "cmd": 1, "flaky": 2, "slow": 1}
OPEN = ("pending", "running", "retrying")


class Scenario:
    def __init__(self, daemon: inject.Daemon) -> None:
        self.daemon = daemon
        self.folder = daemon.state_dir.parent
        self.witness = self.folder / "witness"
        #: Values of the job `note`: the last that was acknowledged, and those that may have been taken.
        self.noted = 0
        self._asked = 0
        #: Run id -> job, as acknowledged, since the last judgement.
        self.acked: dict[int, str] = {}
        self._last_run = 0
        self._last_beat = 0
        #: How often the daemon as a whole had to be started again, and how often the supervisor was another than before.
        self.restarts = 0

    @classmethod
    def after(cls, found_wrong: "Scenario") -> "Scenario":
        """Go on after a judgement that failed, as if nothing had been said before."""
        fresh = cls(found_wrong.daemon)
        fresh._asked = fresh.noted = found_wrong._asked + 1000
        fresh.restarts = found_wrong.restarts
        fresh._up()
        fresh._ask(control.Edit(job_id="note", changes={"description": str(fresh.noted)}))
        fresh._last_run = max((row["run_id"] for row in fresh._rows_since(0)), default=0)  # type: ignore[type-var]  # ints
        return fresh

    def set_up(self) -> None:
        (self.folder / "witnessing.py").write_text(MODULE)
        common = {
            "sandbox": "trusted",  # they write where no box of another profile lets them
            "environment": {"WITNESS": str(self.witness)},
            "max_retries": 0,
            "retry_delay": 0,
            "kill_grace": 0.05,
        }
        function = {**common, "module": "witnessing", "python_path": [str(self.folder)]}
        self.daemon.add(id="one", function="one", **function)
        self.daemon.add(id="two", function="two", **function)
        self.daemon.add(id="cmd", command=_SAY.format("cmd"), **common)
        flaky = f'{_SAY.format("flaky")}; [ "$LNMT_ATTEMPT" = 2 ]'
        self.daemon.add(id="flaky", command=flaky, **{**common, "max_retries": 1})
        slow = f"{_SAY.format('slow')}; sleep 60"
        self.daemon.add(id="slow", command=slow, timeout=0.1, **common)
        self.daemon.add(id="note", command="true", description="0")
        self.daemon.add(id="beat", command=_SAY.format("beat"), schedule="@every 1s", **common)
        self.round()
        self.judge()

    def round(self) -> None:
        """Once through it; what fails on the way is the fault's doing, and judged later."""
        try:
            with self.daemon.client() as connection:
                connection.deadline = time.monotonic() + _ANSWER
                self._asked += 1
                connection.request(control.Edit(job_id="note", changes={"description": str(self._asked)}))
                self.noted = self._asked
                begun = []
                for job_id in ATTEMPTS:
                    request = control.Run(job_id=job_id, with_retries=True, allow_overlap=True)
                    run_id = int(connection.request(request)["run_id"])
                    self.acked[run_id] = job_id
                    begun.append(run_id)
                for run_id in begun:
                    for _ in (stream := connection.stream(control.Follow(run_id=run_id))):
                        pass
                    assert stream.value is not None
        except (client.RequestError, OSError):
            pass

    # Judging.

    def judge(self) -> None:
        self._up()
        until = time.monotonic() + _QUIET
        while (restless := self._restless()) is not None:
            if time.monotonic() > until:
                raise AssertionError(f"not quiet after {_QUIET:g} s: {restless}\n{self.daemon.log[-3000:]}")
            time.sleep(0.002)
        rows = [row for row in self._rows_since(self._last_run) if row["status"] not in OPEN]
        by_id = {row["run_id"]: row for row in rows}
        said = collections.Counter(tuple(line.split()) for line in self._witnessed())
        self._judge_changes()
        for run_id, job_id in self.acked.items():
            assert run_id in by_id, f"run {run_id} of {job_id} was acknowledged and is not there"
            assert by_id[run_id]["job_id"] == job_id
        twice = {line: count for line, count in said.items() if count > 1}
        assert not twice, f"attempts that began twice: {twice}"
        for row in rows:
            self._judge_run(row, said)
        known = {str(row["run_id"]) for row in rows}
        newest = max([self._last_run, *by_id])  # what began since is judged next time
        strangers = [line for line in said if self._last_run < int(line[0]) <= newest and line[0] not in known]
        assert not strangers, f"witnessed without a row: {strangers}"
        self._judge_beats(rows)
        self._last_run = max([self._last_run, *by_id])
        self.acked.clear()

    def kill_supervisor(self) -> None:
        """In the middle of a round."""
        try:
            with self.daemon.client() as connection:
                connection.deadline = time.monotonic() + _ANSWER
                for job_id in ("one", "flaky", "slow"):
                    request = control.Run(job_id=job_id, with_retries=True, allow_overlap=True)
                    self.acked[int(connection.request(request)["run_id"])] = job_id
        finally:
            os.kill(self.daemon.supervisor_pid, signal.SIGKILL)

    def refresh(self) -> None:
        """End the daemon as its host's death would, and start it anew: a crash loop's pauses would cost each point seconds."""
        self.daemon.kill()
        self.daemon.start()

    def _up(self) -> None:
        """The daemon answers; if it has gone as a whole, its manager starts it again."""
        process = self.daemon.process
        assert process is not None
        until = time.monotonic() + _QUIET
        while True:
            if process.poll() is not None:
                self.restarts += 1
                self.daemon.start()
                return
            try:
                self._ask(control.State())
            except (client.RequestError, OSError):
                assert time.monotonic() < until, f"the daemon is there and does not answer\n{self.daemon.log[-3000:]}"
                time.sleep(0.002)
            else:
                return

    def _ask(self, request: object) -> object:
        with self.daemon.client() as connection:
            connection.deadline = time.monotonic() + _ANSWER
            return connection.request(request)

    def _restless(self) -> object:
        """What is still going on, but for the daemon itself; None: nothing."""
        try:
            for status in OPEN:
                if found := self.daemon.history(status=status):
                    return [(row["run_id"], row["job_id"], row["status"], row["error"]) for row in found]
        except (client.RequestError, OSError) as error:
            self._up()
            return error
        left = harness.processes_with(str(self.folder))
        return {pid: _command(pid) for pid in left if self._is_left_over(pid)} or None

    def _is_left_over(self, pid: int) -> bool:
        """A job's process though no run is open, or one of a launcher that is gone; boxes that stand ready are neither."""
        if _command(pid).startswith("strace "):  # it has the path of its log in its command line
            return False
        try:
            if b"LNMT_RUN_ID=" in Path(f"/proc/{pid}/environ").read_bytes():
                return True
            while pid not in (0, self.daemon.launcher_pid):
                pid = int(Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()[1])
        except OSError:  # it has gone meanwhile
            return False
        return pid == 0

    def _rows_since(self, run_id: int) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        before = None
        while True:
            page = self.daemon.request(control.History(before=before, limit=100))
            found += [row for row in page["runs"] if row["run_id"] > run_id]
            before = page["more"]
            if before is None or len(found) % 100:
                return found

    def _witnessed(self) -> list[str]:
        return self.witness.read_text().splitlines() if self.witness.exists() else []

    def _judge_changes(self) -> None:
        show = self.daemon.request(control.Show(job_id="note"))
        now = int(show["job"]["description"])
        assert self.noted <= now <= self._asked, (
            f"note is {now}; {self.noted} was acknowledged, {self._asked} asked for"
        )

    def _judge_run(self, row: dict[str, object], said: collections.Counter[tuple[str, ...]]) -> None:
        run_id, job_id, status = str(row["run_id"]), str(row["job_id"]), row["status"]
        attempts = {line[1] for line in said if line[0] == run_id}
        assert all(line[2] == job_id for line in said if line[0] == run_id)
        assert len(attempts) <= ATTEMPTS.get(job_id, 1), f"run {run_id} of {job_id}: attempts {attempts}"
        if status == "completed":
            last = str(int(str(row["retry_count"])) + 1)  # one before it may have failed to start
            assert last in attempts, f"run {run_id} of {job_id} completed at attempt {last}; witnessed: {attempts}"
        elif status == "skipped":
            assert not attempts
        else:
            assert row["reason"], f"run {run_id} of {job_id} is {status} without a reason"
        if row["reason"] in ("spawn", "sandbox"):
            assert row["error"], f"run {run_id} could not start, and nobody says why"

    def _judge_beats(self, rows: list[dict[str, object]]) -> None:
        """Every second up to the newest row has one row, or is inside of one that stands for many."""
        beats = sorted((row for row in rows if row["job_id"] == "beat"), key=lambda row: int(str(row["slot"])))
        for row in beats:
            slot, more = int(str(row["slot"])), row["more"]
            assert isinstance(more, dict)
            if self._last_beat:
                assert slot == self._last_beat + 1000, f"no row for the slots between {self._last_beat} and {slot}"
            self._last_beat = more["slot_last"] or slot


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "?"


def bounded() -> None:
    """No socket of this process waits for ever."""
    socket.setdefaulttimeout(_ANSWER)


def unbounded() -> None:
    socket.setdefaulttimeout(None)
