"""channel.py: over real sockets and pipes, with real processes; descriptors are counted."""

import contextlib
import fcntl
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import threading

import pytest

from lnmt_scheduler.ipc import channel, codec, frames, messages

ACK = messages.Ack(run_id=1, attempt=1)


def open_fds():
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def _no_descriptor_is_left():
    before = open_fds()
    yield
    assert open_fds() == before


@pytest.fixture
def sockets():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.closing(ours), contextlib.closing(theirs):
        yield ours, theirs


@pytest.fixture
def ends(sockets):
    supervisor = channel.PacketChannel(sockets[0], messages.TO_SUPERVISOR)
    launcher = channel.PacketChannel(sockets[1], messages.TO_LAUNCHER)
    with contextlib.closing(supervisor), contextlib.closing(launcher):
        yield supervisor, launcher


def only_messages(received):
    assert not [fd for _, fds in received for fd in fds]
    return [message for message, _ in received]


def memfd(content):
    fd = os.memfd_create("payload")
    os.write(fd, content)
    return fd


def content(fd):
    try:
        return os.pread(fd, 1000, 0)
    finally:
        os.close(fd)


def send_raw(sock, data, fds=()):
    socket.send_fds(sock, [data], fds)


# Packets


def test_messages_arrive_in_order_one_a_packet(ends):
    supervisor, launcher = ends
    sent = [messages.Ack(run_id=number, attempt=1) for number in range(10)]
    for message in sent:
        supervisor.send(message)
    launcher.send(messages.Reload())
    assert only_messages(launcher.receive()) == sent
    assert only_messages(supervisor.receive()) == [messages.Reload()]
    assert launcher.receive() == []
    assert not launcher.eof


def test_a_call_reads_no_more_than_its_bound(ends):
    supervisor, launcher = ends
    for number in range(10):
        supervisor.send(messages.Ack(run_id=number, attempt=1))
    assert [m.run_id for m in only_messages(launcher.receive(4))] == [0, 1, 2, 3]
    assert [m.run_id for m in only_messages(launcher.receive(4))] == [4, 5, 6, 7]
    assert [m.run_id for m in only_messages(launcher.receive(4))] == [8, 9]


def test_descriptors_travel_beside_their_message_and_are_close_on_exec(ends):
    supervisor, launcher = ends
    before = open_fds()
    launch = messages.Launch(run_id=1, attempt=1, policy={"a": 1}, timeout=None, kill_grace=10)
    supervisor.send(launch, [memfd(b"one")])
    supervisor.send(ACK)
    supervisor.send(launch, [memfd(b"two"), memfd(b"three")])
    assert open_fds() == before
    received = launcher.receive()
    assert [message for message, _ in received] == [launch, ACK, launch]
    assert all(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for _, fds in received for fd in fds)
    assert [[content(fd) for fd in fds] for _, fds in received] == [[b"one"], [], [b"two", b"three"]]


def test_what_the_kernel_will_not_take_waits_in_the_queue_and_arrives_in_order(ends):
    supervisor, launcher = ends
    launcher_sees = []
    count = 600
    for number in range(count):
        fds = [memfd(b"%d" % number)] if number % 100 == 0 else []
        supervisor.send(messages.End(run_id=number, attempt=1, cause="x" * 5000, grace=1), fds)
    assert supervisor.wants_write
    while supervisor.wants_write:
        launcher_sees += launcher.receive()
        supervisor.flush()
    while more := launcher.receive():
        launcher_sees += more
    assert [message.run_id for message, _ in launcher_sees] == list(range(count))
    assert {m.run_id: content(fds[0]) for m, fds in launcher_sees if fds} == {
        n: b"%d" % n for n in range(0, count, 100)
    }


def test_a_queue_that_is_never_sent_is_closed_with_its_descriptors(ends):
    supervisor, _ = ends
    before = open_fds()
    while not supervisor.wants_write:
        supervisor.send(messages.Ready(version=1, status="x" * 50_000))
    supervisor.send(ACK, [memfd(b"")])
    assert len(open_fds() - before) == 1
    supervisor.close()
    assert not open_fds() - before


def test_the_largest_packet_passes_and_a_larger_one_is_refused(ends):
    supervisor, launcher = ends
    overhead = len(codec.encode(messages.Ready(version=1, status="x" * 70_000))) - 70_000
    largest = messages.Ready(version=1, status="x" * (channel.MAX_PACKET - overhead))
    supervisor.send(largest)
    assert only_messages(launcher.receive()) == [largest]
    before = open_fds()
    with pytest.raises(codec.ProtocolError, match="Ready of 131073 bytes, at most 131072"):
        supervisor.send(messages.Ready(version=1, status=largest.status + "x"), [memfd(b"")])
    with pytest.raises(codec.ProtocolError, match="5 descriptors, at most 4"):
        supervisor.send(ACK, [memfd(b"") for _ in range(5)])
    assert open_fds() == before
    supervisor.send(ACK)
    assert only_messages(launcher.receive()) == [ACK]


def test_the_end_of_the_other_side_is_seen_after_its_last_message(ends):
    supervisor, launcher = ends
    supervisor.send(ACK)
    supervisor.close()
    assert only_messages(launcher.receive()) == [ACK]
    assert launcher.receive() == []
    assert launcher.eof


def test_the_last_words_of_a_side_that_left_ours_unread_are_heard(ends):
    supervisor, launcher = ends
    launcher.send(messages.Reload())
    supervisor.send(ACK)
    supervisor.close()
    assert only_messages(launcher.receive()) == [ACK]
    assert launcher.eof


def test_what_is_sent_to_a_side_that_is_gone_is_dropped_and_its_descriptors_closed(ends):
    supervisor, launcher = ends
    supervisor.send(ACK)
    while not launcher.wants_write:
        launcher.send(messages.Exited(run_id=1, attempt=1, spawn_error="x" * 50_000))
    supervisor.close()
    before = open_fds()
    launcher.send(messages.Started(run_id=1, attempt=1, pid=2, at=0.5), [memfd(b""), memfd(b""), memfd(b"")])
    launcher.send(messages.Stop(), [memfd(b"")])
    assert not launcher.wants_write
    assert open_fds() == before
    assert not launcher.eof
    assert only_messages(launcher.receive()) == [ACK]
    assert launcher.eof


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"\xc1", "not msgpack"),
        (codec.pack(["ack", {"run_id": 1}]), "attempt is missing"),
        (b"x" * (channel.MAX_PACKET + 1), "more than 131072 bytes"),
    ],
)
def test_a_bad_packet_ends_the_conversation_and_leaves_no_descriptor(sockets, packet, reason):
    launcher = channel.PacketChannel(sockets[1], messages.TO_LAUNCHER)
    read, write = os.pipe()
    send_raw(sockets[0], codec.encode(ACK), [read])
    send_raw(sockets[0], packet, [read, write])
    os.close(read)
    os.close(write)
    before = open_fds()
    with pytest.raises(codec.ProtocolError, match=reason):
        launcher.receive()
    assert open_fds() == before


def test_more_descriptors_than_any_message_has_are_refused_and_closed(sockets):
    launcher = channel.PacketChannel(sockets[1], messages.TO_LAUNCHER)
    before = open_fds()
    read, write = os.pipe()
    send_raw(sockets[0], codec.encode(ACK), [read, write] * 100)
    os.close(read)
    os.close(write)
    with pytest.raises(codec.ProtocolError, match="more than 4 descriptors"):
        launcher.receive()
    assert open_fds() == before


def test_a_process_out_of_descriptors_gets_the_message_without_any(sockets):
    launcher = channel.PacketChannel(sockets[1], messages.TO_LAUNCHER)
    before = open_fds()
    read, write = os.pipe()
    send_raw(sockets[0], codec.encode(ACK), [read, write, read])
    os.close(read)
    os.close(write)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The three lowest free numbers: with the limit on the third and the first given back, just one can be had.
    filler = [os.dup(0) for _ in range(3)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(filler), hard))
    os.close(filler[0])
    try:
        assert launcher.receive() == [(ACK, [])]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in filler[1:]:
            os.close(fd)
    assert open_fds() == before


CROWD = """
import os, resource, socket
from lnmt_scheduler.ipc import channel, messages
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
supervisor = channel.PacketChannel(ours, ())
launcher = channel.PacketChannel(theirs, messages.TO_LAUNCHER)
ack = messages.Ack(run_id=1, attempt=1)
fds = [os.dup(0) for _ in range(40)]
if os.geteuid() == 0:
    os.setuid(65534)  # root may have any number in flight
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
for fd in fds:
    supervisor.send(ack, [fd])
assert supervisor.wants_write
received = 0
while received < len(fds):
    for message, got in launcher.receive(1):
        received += 1
        assert message == ack and len(got) == 1
        os.close(got[0])
    supervisor.flush()
assert not supervisor.wants_write
"""


def test_too_many_descriptors_in_flight_wait_in_the_queue():
    subprocess.run([sys.executable, "-c", CROWD], check=True, stdin=subprocess.DEVNULL, timeout=30)


def test_a_socket_that_can_be_written_again_wakes_the_queue(ends):
    supervisor, launcher = ends
    while not supervisor.wants_write:
        supervisor.send(messages.Ready(version=1, status="x" * 50_000))
    poll = select.poll()
    poll.register(supervisor, select.POLLOUT)
    assert poll.poll(0) == []
    launcher.receive()
    assert poll.poll(0) == [(supervisor.fileno(), select.POLLOUT)]
    supervisor.flush()
    assert not supervisor.wants_write


# Reports

WRITER = """
import os, sys
from lnmt_scheduler.ipc import channel, messages
fd, name, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
os.read(int(sys.argv[4]), 1)  # all begin at once
for number in range(count):
    channel.send_report(fd, messages.Log(level=name, text=str(number) * (1 + number * 7 % 1300)))
"""


def test_reports_of_several_processes_at_once_arrive_whole_and_in_order():
    read, write = os.pipe()
    gate, go = os.pipe()
    count = 400
    names = ["a", "b", "c", "d"]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(write), name, str(count), str(gate)], pass_fds=(write, gate)
        )
        for name in names
    ]
    os.close(write)
    os.close(gate)
    os.write(go, b"x" * len(writers))
    os.close(go)
    reader = frames.FrameReader(frames.REPORT_LIMIT)
    seen = {name: [] for name in names}
    # Odd reads, so that the pipe is often full when a writer comes and frames lie across our reads.
    while data := os.read(read, 5003):
        for body in reader.feed(data):
            log = codec.decode(body, messages.REPORT)
            seen[log.level].append(log.text)
    os.close(read)
    assert [writer.wait() for writer in writers] == [0] * len(writers)
    assert reader.pending == 0
    expected = [str(number) * (1 + number * 7 % 1300) for number in range(count)]
    assert all(texts == expected for texts in seen.values())


def test_a_report_over_pipe_buf_is_refused_and_nothing_is_written():
    read, write = os.pipe()
    try:
        with pytest.raises(frames.FrameError, match="at most 4092"):
            channel.send_report(write, messages.Log(level="info", text="x" * 4092))
        os.set_blocking(read, False)
        with pytest.raises(BlockingIOError):
            os.read(read, 1)
    finally:
        os.close(read)
        os.close(write)


# Blocking frames


@pytest.fixture
def stream():
    client, server = socket.socketpair()
    with contextlib.closing(client), contextlib.closing(server):
        yield client, server


def test_frames_pass_a_blocking_socket_both_ways(stream):
    client, server = stream
    body = os.urandom(500_000)
    # Larger than the socket's buffer, so that both sides work in pieces.
    sender = threading.Thread(target=channel.write_frame, args=(client, body, len(body)))
    sender.start()
    assert channel.read_frame(server, len(body)) == body
    sender.join()
    channel.write_frame(server, b"a", 10)
    channel.write_frame(server, b"b", 10)
    assert [channel.read_frame(client, 10), channel.read_frame(client, 10)] == [b"a", b"b"]


def test_the_end_of_a_stream_between_frames_is_none_and_within_one_an_error(stream):
    client, server = stream
    client.sendall(frames.pack(b"whole", 10) + frames.pack(b"cut off", 10)[:-1])
    client.close()
    assert channel.read_frame(server, 10) == b"whole"
    with pytest.raises(frames.FrameError, match="in the middle"):
        channel.read_frame(server, 10)
    assert channel.read_frame(server, 10) is None


def test_a_stream_that_ends_within_a_header_is_an_error(stream):
    client, server = stream
    client.sendall(b"\0\0")
    client.close()
    with pytest.raises(frames.FrameError, match="in the middle"):
        channel.read_frame(server, 10)


def test_a_frame_over_the_limit_is_refused_unread(stream):
    client, server = stream
    client.sendall(struct.pack(">I", 11) + b"x" * 11)
    with pytest.raises(frames.FrameError, match="a frame of 11 bytes, at most 10"):
        channel.read_frame(server, 10)
    assert server.recv(100) == b"x" * 11
