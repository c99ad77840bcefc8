"""Clients that mean harm, at a real daemon's socket: their connection ends, and nothing else notices.

Around every storm stands a watch: a job that runs through it, one that is due every second, and the daemon's descriptors
and memory before and after.
"""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import threading
import time

import harness
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lnmt_scheduler.ipc import channel, codec, control
from lnmt_scheduler.supervisor import client, paths

#: Bytes that a storm may leave behind: what Python's allocator keeps of its peak.
ROOM = 24 * 1024 * 1024


class Watch:
    """What nobody's storm may change, asked at the end of the `with`."""

    def __init__(self, daemon):
        self.daemon = daemon
        daemon.add(id="bystander", command="sleep 300")
        daemon.add(id="beat", command="true", schedule="@every 1s")
        self.run_id = daemon.run("bystander")
        harness.wait_for(lambda: daemon.history(job_id="beat", status="completed"), what="a beat")
        self.supervisor = daemon.supervisor_pid
        self.fds = min(self.count_fds() for _ in range(50))
        self.memory = harness.resident(self.supervisor)

    def __enter__(self):
        return self

    def count_fds(self):
        return len(os.listdir(f"/proc/{self.supervisor}/fd"))

    def answers(self, seconds=1.0):
        """`status` answers in this time."""
        began = time.monotonic()
        assert self.daemon.status()["pid"] == self.supervisor
        assert time.monotonic() - began < seconds

    def _started_after(self, now):
        page = self.daemon.request(control.History(job_id="beat", limit=5))
        return next((row for row in page["runs"] if row["slot"] > now and row["start_time"]), None)

    def __exit__(self, kind, *_):
        if kind is not None:
            return
        self.answers()
        assert self.daemon.history(job_id="bystander")[0]["status"] == "running"
        now = time.time() * 1000
        beat = harness.wait_for(lambda: self._started_after(now), what="a beat after the storm")
        assert beat["start_time"] - beat["slot"] < 500
        harness.wait_for(lambda: self.count_fds() <= self.fds, what=f"{self.fds} descriptors")
        assert harness.resident(self.supervisor) - self.memory < ROOM


@pytest.fixture
def watch(daemon):
    with Watch(daemon) as watch:
        yield watch


def connect(daemon, greet=True):
    sock = paths.connect(daemon.socket)
    sock.settimeout(10)
    if greet:
        ask(sock, 0, "hello", {"protocol": control.PROTOCOL, "version": "t"})
        assert answer(sock)[1] == "ok"
    return sock


def ask(sock, number, tag, values=None, key=None):
    channel.write_frame(sock, codec.pack([number, tag, values or {}, key]), control.FRAME_LIMIT)


def answer(sock):
    """The next answer; None at the end of the connection."""
    try:
        body = channel.read_frame(sock, control.FRAME_LIMIT)
    except ConnectionResetError:
        return None
    return None if body is None else codec.unpack(body)


def say(sock, data):
    """Send what the daemon takes; it may hang up meanwhile."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        sock.sendall(data)
        return True
    return False


def framed(body):
    return len(body).to_bytes(4, "big") + body


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(max_size=50),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=10,
)  # fmt: skip
#: Fields of all requests, so that what is drawn often comes close to a real one.
FIELDS = sorted({field for kind in control.REQUESTS.values() for field in kind.__dataclass_fields__})
#: Requests that end the daemon or wait for it, stop its schedule or have no end are not drawn, nor are those that start a
#: thousand processes.
_LEFT_OUT = {"stop", "restart", "drain", "pause", "watch", "follow", "run", "retry", "trigger", "cancel"}
TAGS = [*sorted(set(control.REQUESTS) - _LEFT_OUT), "nonsense"]
NAMED = st.dictionaries(
    st.sampled_from(FIELDS), VALUES | st.sampled_from(["bystander", "output"]) | st.integers(-3, 3), max_size=4
)
REQUESTS = st.builds(lambda tag, values: codec.pack([1, tag, values, None]), st.sampled_from(TAGS), NAMED)
BODIES = st.one_of(
    REQUESTS,
    st.binary(min_size=1, max_size=300),
    VALUES.map(codec.pack),
    st.integers(33, 100_000).map(lambda depth: b"\x91" * depth + b"\xc0"),
    st.integers(1, 200_000).map(lambda count: b"\xdd" + count.to_bytes(4, "big") + b"\x80" * count),
    st.integers(0, 0xFFFFFFFF).map(lambda count: b"\xdf" + count.to_bytes(4, "big")),
)
STREAMS = st.one_of(
    BODIES.map(framed),
    BODIES.map(lambda body: framed(body)[:-1]),
    st.binary(min_size=1, max_size=2000),
    st.integers(control.FRAME_LIMIT + 1, 0xFFFFFFFF).map(lambda length: length.to_bytes(4, "big")),
)


def test_no_bytes_on_a_connection_harm_anything_else(watch):
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.booleans(), st.lists(STREAMS, min_size=1, max_size=4))
    def storm(greets, streams):
        sock = connect(watch.daemon, greets)
        with sock:
            for data in streams:
                say(sock, data)
            sock.shutdown(socket.SHUT_WR)
            while (got := answer(sock)) is not None:
                assert got[1] in ("ok", "error", "item")
        watch.answers()

    storm()
    assert "stumbled" not in watch.daemon.log
    assert "Traceback" not in watch.daemon.log


def test_no_request_trips_the_daemon(watch):
    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(REQUESTS, min_size=1, max_size=8))
    def storm(bodies):
        with connect(watch.daemon) as sock:
            for body in bodies:
                sock.sendall(framed(body))
                while (got := answer(sock)) is not None and got[1] == "item":
                    pass
                if got is None or got[0] == 0:
                    return
                assert got[1] == "ok" or "stumbled" not in got[2]["message"], got

    storm()
    assert "Traceback" not in watch.daemon.log


def test_what_a_header_claims_costs_nothing(watch):
    socks = [connect(watch.daemon) for _ in range(50)]
    before = harness.resident(watch.supervisor)
    for sock in socks:
        sock.sendall((control.FRAME_LIMIT).to_bytes(4, "big") + b"x")
        with connect(watch.daemon) as other:
            other.sendall(b"\xff\xff\xff\xff")
            assert answer(other)[0] == 0
            assert answer(other) is None
    watch.answers()
    assert harness.resident(watch.supervisor) - before < 8 * 1024 * 1024
    for sock in socks:
        sock.close()


def test_megabytes_of_empty_maps_in_frames_stay_within_bounds(watch):
    body = b"\xdd" + (262_000).to_bytes(4, "big") + b"\x80" * 262_000
    peak = 0
    for _ in range(24):
        with connect(watch.daemon) as sock:
            sock.sendall(framed(body))
            assert answer(sock)[1] == "error"
        peak = max(peak, harness.resident(watch.supervisor))
        watch.answers()
    assert peak - watch.memory < 64 * 1024 * 1024


def test_half_a_frame_ends_after_its_time_and_only_that_connection(watch):
    idle, half = connect(watch.daemon), connect(watch.daemon)
    with idle, half:
        half.sendall(b"\x00\x00")
        began = time.monotonic()
        assert answer(half) is None
        assert 4 < time.monotonic() - began < 8
        ask(idle, 1, "state")
        assert answer(idle)[1] == "ok"


def test_a_thousand_clients_at_once_cost_the_oldest_silent_ones_their_place(watch):
    socks = []
    try:
        for number in range(1000):
            sock = paths.connect(watch.daemon.socket)
            sock.settimeout(10)
            socks.append(sock)
            if number % 100 == 99:
                watch.answers()
                assert watch.count_fds() <= watch.fds + 256 + 10
        ask(socks[-1], 0, "hello", {"protocol": control.PROTOCOL, "version": "t"})
        assert answer(socks[-1])[1] == "ok"
        assert answer(socks[0]) is None
    finally:
        for sock in socks:
            sock.close()


def test_a_thousand_clients_that_ask_at_once_are_answered_or_told(watch):
    outcomes = []

    def ask_status():
        try:
            with client.Client(watch.daemon.socket) as connection:
                connection.deadline = time.monotonic() + 30
                outcomes.append("ok" if connection.request(control.State())["pid"] == watch.supervisor else "wrong")
        except client.Unreachable:
            outcomes.append("told")
        except client.RequestError as error:
            outcomes.append("told" if error.code == control.UNAVAILABLE else f"error {error.code}")

    threads = [threading.Thread(target=ask_status) for _ in range(1000)]
    for thread in threads:
        thread.start()
    watch.answers(5)
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1000
    assert set(outcomes) <= {"ok", "told"}
    assert outcomes.count("ok") > 700


def test_followers_that_stop_reading_hold_up_neither_the_flood_nor_anybody(watch):
    daemon = watch.daemon
    daemon.add(id="flood", command="head -c 200M /dev/zero", limits={"output": "1M"}, kill_grace=1)
    run_id = daemon.run("flood")
    socks = []
    for _ in range(30):
        sock = connect(daemon)
        ask(sock, 1, "follow", {"run_id": run_id, "output": True})
        socks.append(sock)
    row = daemon.wait(run_id)
    assert (row["status"], row["output_bytes"]) == ("completed", 200 * 1024 * 1024)
    watch.answers()
    # Who reads again gets what was kept, and the end.
    got = []
    while (each := answer(socks[0])) is not None and each[1] == "item":
        got.append(each[2])
    assert each[1:] == ["ok", {"run": row}]
    sent = b"".join(item["data"] for item in got if item["kind"] == "output")
    assert 1024 * 1024 <= len(sent) < 2 * 1024 * 1024
    assert b"bytes of output dropped here" in sent or any(item["kind"] == "gap" for item in got)
    for sock in socks:
        sock.close()


def test_a_client_that_asks_and_never_reads_is_put_off_and_nobody_else(watch):
    request = framed(codec.pack([1, "history", {"limit": 500}, None]))
    sock = connect(watch.daemon)
    sock.setblocking(False)
    sent = 0
    with sock, contextlib.suppress(BlockingIOError):
        while sent < 50_000_000:
            sent += sock.send(request * 1000)
            watch.answers()
        pytest.fail("everything was taken")
    watch.answers()


def test_a_client_that_asks_much_in_one_go_is_no_burden(watch):
    with connect(watch.daemon) as sock:
        requests = b"".join(framed(codec.pack([n, "list", {}, None])) for n in range(1, 3000))
        threading.Thread(target=say, args=(sock, requests), daemon=True).start()
        for number in range(1, 3000):
            if number % 100 == 0:
                watch.answers(0.5)
            assert answer(sock)[:2] == [number, "ok"]


def test_descriptors_that_clients_send_are_not_kept(watch):
    with connect(watch.daemon) as sock, open(os.devnull, "rb") as null:
        frame = framed(codec.pack([1, "state", {}, None]))
        for _ in range(20):
            socket.send_fds(sock, [frame], [null.fileno()] * 200)
            assert answer(sock)[1] == "ok"
        assert watch.count_fds() < watch.fds + 20


def test_clients_that_vanish_in_the_middle_leave_nothing(watch):
    daemon = watch.daemon
    for number in range(60):
        sock = connect(daemon)
        ask(sock, 1, "follow", {"run_id": watch.run_id, "output": True})
        ask(sock, 2, "list")
        ask(sock, 3, "run", {"job_id": "bystander"}, f"key {number}")
        if number % 2:
            sock.sendall(framed(codec.pack([4, "list", {}, None]))[:-3])
        sock.close()
    watch.answers()


def test_a_request_whose_client_vanished_has_its_effect_once(watch):
    daemon = watch.daemon
    daemon.add(id="once", command="sleep 0.2")
    for _ in range(20):
        with connect(daemon) as sock:
            ask(sock, 1, "run", {"job_id": "once"}, "the same key")
    with daemon.client() as connection:
        run_id = connection.request(control.Run(job_id="once"), "the same key")["run_id"]
    daemon.wait(run_id)
    assert [row["run_id"] for row in daemon.history(job_id="once")] == [run_id]


def test_a_program_that_dies_while_it_follows_is_forgotten(watch):
    command = [harness.SCHEDCTL, "--state-dir", str(watch.daemon.state_dir), "logs", str(watch.run_id), "--follow"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    harness.wait_for(lambda: watch.count_fds() > watch.fds, what="a follower")
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_another_account_is_refused_before_it_has_said_anything(watch):
    os.seteuid(65534)  # what the kernel tells the daemon of us is what we are when we connect
    try:
        sock = paths.connect(watch.daemon.socket)
    finally:
        os.seteuid(0)
    with sock:
        sock.settimeout(10)
        number, kind, error = answer(sock)
        assert (number, kind, error["code"]) == (0, "error", control.NOT_ALLOWED)
        assert "no role" in error["message"]
        assert answer(sock) is None


def test_a_daemon_without_descriptors_for_clients_rests_and_comes_back(watch):
    watch.daemon.request(control.Disable(job_id="beat"))
    harness.wait_for(lambda: watch.daemon.status()["running"] == 1, what="the bystander alone")
    limits = resource.prlimit(watch.supervisor, resource.RLIMIT_NOFILE)
    assert limits[0] == limits[1]  # it takes what it may
    resource.prlimit(watch.supervisor, resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        sock = paths.connect(watch.daemon.socket)
        ask(sock, 0, "hello", {"protocol": control.PROTOCOL, "version": "t"})
        before = cpu_seconds(watch.supervisor)
        sock.settimeout(1.5)
        with pytest.raises(TimeoutError):
            answer(sock)
        assert cpu_seconds(watch.supervisor) - before < 0.3
    finally:
        resource.prlimit(watch.supervisor, resource.RLIMIT_NOFILE, limits)
    with sock:
        sock.settimeout(10)
        assert answer(sock)[1] == "ok"
    assert 1 <= watch.daemon.log.count("no descriptor for another client") <= 4
    watch.daemon.request(control.Enable(job_id="beat"))


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_frames_of_the_right_size_and_no_sense_are_cheap(watch):
    """A frame that takes the decoder longest, again and again."""
    body = (b"\x92\x90" * (control.FRAME_LIMIT // 2 - 8))[: control.FRAME_LIMIT]
    for _ in range(20):
        with connect(watch.daemon) as sock:
            sock.sendall(framed(body))
            assert answer(sock)[0] == 0
        watch.answers(0.5)
