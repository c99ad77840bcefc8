"""The reference scenario under faults, and what must hold after it whatever happened: a daemon's day in a tenth of a second.

A round is: two functions, a command, one that succeeds at its second attempt and one that is ended by its timeout are started
by hand and waited for; one is added, started, disabled, cancelled and removed; a definition is changed; a job of every second
runs beside them. The jobs witness what they do in a file that the daemon knows nothing of; what clients ask for is noted.

judge() then waits until all is quiet and holds the daemon to its word: it is up, or can be started again; every acknowledged
change and run is there; no attempt has begun twice, and no more of them than allowed; who completed has witnessed it; every
second has its row; and not one process is left. verdict() hands all rounds to the independent checker (tests/checking).
"""

import collections
import json
import socket
import time
from pathlib import Path
from typing import Any

import harness
from checking import evidence, readers, rules

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import client

MODULE = """
import json, os, time

def tell(what, **more):
    e = os.environ
    who = {"job": e["LNMT_JOB_ID"], "run_id": int(e["LNMT_RUN_ID"]), "attempt": int(e["LNMT_ATTEMPT"])}
    at = round(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000)
    line = json.dumps({**who, "slot": e.get("LNMT_SLOT"), "what": what, "at": at, **more})
    fd = os.open(e["WITNESS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(fd, (line + "\\n").encode())
    os.close(fd)

def witness():
    tell("start")
    tell("end", code=0)
"""
#: The same for a shell, which finds CLOCK_BOOTTIME in /proc/uptime, in hundredths of a second; dash writes a line at once.
_SAY = r"""
tell() {
    read up _ < /proc/uptime
    who="\"job\":\"$LNMT_JOB_ID\",\"run_id\":$LNMT_RUN_ID,\"attempt\":$LNMT_ATTEMPT,\"slot\":\"$LNMT_SLOT\""
    echo "{$who,\"what\":\"$1\",\"at\":${up%.*}${up#*.}0$2}" >> "$WITNESS"
}
tell start
"""
_END = """
tell end ',"code":'$code
exit $code
"""
#: Seconds that a client waits for an answer, and the judge for quiet.
_ANSWER, QUIET = 1.5, 20.0
#: A run of these is over when its one attempt is; `flaky` has two.
ATTEMPTS = {"one": 1, "two": 1, "cmd": 1, "flaky": 2, "slow": 1}
OPEN = ("pending", "running", "retrying")


class Scenario:
    def __init__(self, daemon: harness.Daemon) -> None:
        self.daemon = daemon
        self.folder = daemon.state_dir.parent
        self.witness = self.folder / "witness"
        #: Values of the job `note`: the last that was acknowledged, and those that may have been taken.
        self.noted = 0
        self._asked = 0
        self._common: dict[str, object] = {}
        #: Run id -> job, as acknowledged, since the last judgement.
        self.acked: dict[int, str] = {}
        self.last_run = 0
        self._last_beat = 0
        #: How often each attempt said that it begins: (run id, attempt, job); and how much of the file was read for that.
        self._said: collections.Counter[tuple[int, int, str]] = collections.Counter()
        self._read = 0
        #: How often the daemon as a whole had to be started again.
        self.restarts = 0
        #: For the checker, and what nobody has answered to yet.
        self._begin = readers.true_now()
        self._changes: list[evidence.Change] = []
        self._unanswered: list[dict[str, object]] = []
        self._faults: list[evidence.Fault] = []

    def go_on(self) -> None:
        """After a judgement that failed, as if nothing had been said before."""
        self.up()
        self._asked += 1000
        self.acked.clear()
        self._witnessed()
        with self.daemon.client() as connection:
            self._note(connection)
        self.last_run = max((row["run_id"] for row in self._rows_since(0)), default=0)  # type: ignore[type-var]  # ints
        self._last_beat = 0
        self._said.clear()

    def set_up(self) -> None:
        (self.folder / "witnessing.py").write_text(MODULE)
        common = self._common = {
            "sandbox": {"profile": "trusted"},  # they write where no box of another profile lets them
            "environment": {"WITNESS": str(self.witness)},
            "max_retries": 0,
            "retry_delay": 0,
            "kill_grace": 0.05,
        }
        function = {**common, "module": "witnessing", "function": "witness", "python_path": [str(self.folder)]}
        plain = f"{_SAY}code=0{_END}"
        with self.daemon.client() as connection:
            self._add(connection, id="one", **function)
            self._add(connection, id="two", **function)
            self._add(connection, id="cmd", command=plain, **common)
            flaky = f"{_SAY}code=$((2 - LNMT_ATTEMPT)){_END}"
            self._add(connection, id="flaky", command=flaky, **{**common, "max_retries": 1})
            self._add(connection, id="slow", command=f"{_SAY}sleep 60", timeout=0.1, **common)
            self._add(connection, id="beat", command=plain, schedule="@every 1s", **common)
            self._add(connection, **self._definition_of_note())
        self.round()
        self.judge()

    def add_tree(self) -> None:
        """A job of every second with processes that are in sessions of their own, and outlive its end."""
        command = f"{_SAY}setsid sleep 60 & setsid sleep 60 & sleep 0.4; code=0{_END}"
        with self.daemon.client() as connection:
            self._add(connection, id="tree", command=command, schedule="@every 1s", **self._common)

    def round(self) -> None:
        """Once through it; what fails on the way is the fault's doing, and judged later."""
        try:
            with self.daemon.client() as connection:
                connection.deadline = time.monotonic() + _ANSWER
                self._note(connection)
                begun = [self._run(connection, job_id) for job_id in ATTEMPTS]
                brief = f"brief-{self._asked}"
                self._add(connection, id=brief, command=f"{_SAY}sleep 60", timeout=1, **self._common)
                run_id = self._run(connection, brief)
                self._change(connection, "disable", brief, control.Disable(job_id=brief))
                self._change(connection, "cancel", brief, control.Cancel(run_id=run_id), run_id=run_id)
                self._change(connection, "remove", brief, control.Remove(job_id=brief))
                for run_id in begun:
                    for _ in (stream := connection.stream(control.Follow(run_id=run_id))):
                        pass
                    assert stream.value is not None
        except (client.RequestError, OSError):
            pass

    def begin_runs(self) -> None:
        """Some runs that are not waited for, so that what comes now meets them."""
        try:
            with self.daemon.client() as connection:
                connection.deadline = time.monotonic() + _ANSWER
                for job_id in ("one", "flaky", "slow", "cmd"):
                    self._run(connection, job_id)
        except (client.RequestError, OSError):
            pass

    def _definition_of_note(self) -> dict[str, object]:
        return {"id": "note", "command": "true", "description": str(self._asked)}

    def _note(self, connection: client.Client) -> None:
        self._asked += 1
        request = control.Edit(job_id="note", changes={"description": str(self._asked)})
        self._change(connection, "edit", "note", request, definition=self._definition_of_note())
        self.noted = self._asked

    def _add(self, connection: client.Client, **definition: object) -> None:
        self._change(
            connection, "add", str(definition["id"]), control.Add(definition=definition), definition=definition
        )

    def _run(self, connection: client.Client, job_id: str) -> int:
        request = control.Run(job_id=job_id, with_retries=True, allow_overlap=True)
        return int(self._change(connection, "run", job_id, request, allow_overlap=True)["run_id"])

    def _change(
        self, connection: client.Client, action: str, job: str, request: object, **more: object
    ) -> dict[str, object]:
        known: dict[str, object] = {"action": action, "job": job, "sent": readers.true_now(), **more}
        self._unanswered.append(known)
        answer = connection.request(request)
        self._unanswered.pop()
        if action == "run":
            known["run_id"] = int(answer["run_id"])
            self.acked[int(answer["run_id"])] = job
        self._tell(known, acked=True)
        return dict(answer or {})

    def fault(self, kind: str, begin: int) -> None:
        """Tell the checker of one that lasted from then until now."""
        self._faults.append(evidence.Fault(kind=kind, begin=begin, end=readers.true_now()))

    def _tell(self, known: dict[str, Any], *, acked: bool) -> None:
        self._changes.append(evidence.Change(until=readers.true_now(), acked=acked, **known))

    # Judging.

    def judge(self) -> None:
        self.up()
        until = time.monotonic() + QUIET
        while (restless := self._restless()) is not None:
            if time.monotonic() > until:
                raise AssertionError(f"not quiet after {QUIET:g} s: {restless}\n{self.daemon.log[-3000:]}")
            time.sleep(0.002)
        # Whatever had no answer has had its effect by now, or never will.
        for known in self._unanswered:
            self._tell(known, acked=False)
        self._unanswered.clear()
        rows = [row for row in self._rows_since(self.last_run) if row["status"] not in OPEN]
        by_id = {row["run_id"]: row for row in rows}
        said = self._witnessed()
        self._judge_changes()
        for run_id, job_id in self.acked.items():
            assert run_id in by_id, f"run {run_id} of {job_id} was acknowledged and is not there"
            assert by_id[run_id]["job_id"] == job_id
        twice = {line: count for line, count in said.items() if count > 1}
        assert not twice, f"attempts that began twice: {twice}"
        attempts: dict[int, set[int]] = collections.defaultdict(set)
        for run_id, attempt, _ in said:
            attempts[run_id].add(attempt)
        for row in rows:
            self._judge_run(row, attempts[int(str(row["run_id"]))])
        newest = max([self.last_run, *by_id])  # type: ignore[type-var]  # ints; what began since is judged next time
        strangers = [line for line in said if line[0] <= newest and line[0] not in by_id]
        assert not strangers, f"witnessed without a row: {strangers}"
        self._judge_beats(rows)
        self.last_run = newest
        self._said = collections.Counter({line: count for line, count in said.items() if line[0] > newest})
        self.acked.clear()

    def verdict(self) -> list[str]:
        """End the daemon, and all that the checker finds wrong with what it has done since it began."""
        sent = readers.true_now()
        self.daemon.stop()
        self.fault("stop", sent)
        found = readers.gather(
            self.daemon.state_dir,
            self.witness,
            begin=self._begin,
            stopped=sent,
            changes=self._changes,
            faults=self._faults,
        )
        return [str(finding) for finding in rules.judge(found)]

    def up(self) -> None:
        """Wait until the daemon answers; if it has gone as a whole, its manager starts it again."""
        until = time.monotonic() + QUIET
        while True:
            process = self.daemon.process
            try:
                if process is None or process.poll() is not None:
                    self.restarts += 1
                    begin = readers.true_now()
                    self.daemon.start()
                    self.fault("launcher", begin)
                with self.daemon.client() as connection:
                    connection.deadline = time.monotonic() + _ANSWER
                    connection.request(control.State())
                    return
            except (client.RequestError, OSError, AssertionError) as error:
                if time.monotonic() > until:
                    raise AssertionError(f"the daemon does not answer: {error}\n{self.daemon.log[-3000:]}") from None
                time.sleep(0.002)

    def _ask(self, request: object) -> Any:
        """What the daemon answers; if it dies meanwhile, the next one is asked."""
        while True:
            try:
                with self.daemon.client() as connection:
                    connection.deadline = time.monotonic() + _ANSWER
                    return connection.request(request)
            except (client.Unreachable, OSError):
                self.up()

    def _restless(self) -> object:
        """What is still going on, but for the daemon itself; None: nothing."""
        counts = self._ask(control.State())  # all of one moment
        if any(counts[what] != 0 for what in ("running", "queued", "retrying")):
            rows = [row for status in OPEN for row in self._ask(control.History(status=status))["runs"]]
            return [(row["run_id"], row["job_id"], row["status"], row["error"]) for row in rows] or counts
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
            page = self._ask(control.History(before=before, limit=100))
            found += [row for row in page["runs"] if row["run_id"] > run_id]
            before = page["more"]
            if before is None or len(found) % 100:
                return found

    def _witnessed(self) -> collections.Counter[tuple[int, int, str]]:
        """Who of those that are not judged yet has begun, and how often."""
        if self.witness.exists():
            with self.witness.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            self._read += len(new)
            for told in map(json.loads, new.splitlines()):
                if told["what"] == "start":
                    self._said[told["run_id"], told["attempt"], told["job"]] += 1
        return self._said

    def _judge_changes(self) -> None:
        now = int(self._ask(control.Show(job_id="note"))["job"]["description"])
        assert self.noted <= now <= self._asked, (
            f"note is {now}; {self.noted} was acknowledged, {self._asked} asked for"
        )

    def _judge_run(self, row: dict[str, object], attempts: set[int]) -> None:
        run_id, job_id, status = row["run_id"], str(row["job_id"]), row["status"]
        assert len(attempts) <= ATTEMPTS.get(job_id, 1), f"run {run_id} of {job_id}: attempts {attempts}"
        if status == "completed":
            last = int(str(row["retry_count"])) + 1  # one before it may have failed to start
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
