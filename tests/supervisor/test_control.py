"""The control socket's server over a real socket, its loop turned by hand, with a few handlers that show what it does."""

import contextlib
import grp
import os
import socket
import time
import types

import pytest

from lnmt_scheduler.ipc import codec, control, frames
from lnmt_scheduler.supervisor import connection, loop
from lnmt_scheduler.supervisor import control as server

HELLO = ["hello", {"protocol": control.PROTOCOL, "version": "t"}]


class Client:
    """A raw client: it may say anything."""

    def __init__(self, bench, greet=True):
        self.bench = bench
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(bench.path)
        self.sock.setblocking(False)
        bench.clients.append(self)
        self.reader = frames.FrameReader(control.FRAME_LIMIT)
        self.got = []
        self.ended = False
        if greet:
            self.send(0, *HELLO)
            assert self.next()[1] == "ok"

    def send(self, number, tag, values=None, key=None):
        self.raw(frames.pack(codec.pack([number, tag, values or {}, key]), control.FRAME_LIMIT))

    def raw(self, data):
        while data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                self.bench.turn()

    def read(self):
        """Take what has come."""
        try:
            while data := self.sock.recv(1 << 16):
                self.got += map(codec.unpack, self.reader.feed(data))
            self.ended = True
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self.ended = True

    def next(self):
        """The next answer; None at the end of the connection."""
        self.bench.until(lambda: self.read() or self.got or self.ended)
        return self.got.pop(0) if self.got else None

    def is_closed(self):
        self.bench.until(lambda: self.read() or self.ended)
        return True

    def close(self):
        self.sock.close()


class Bench:
    """A server with handlers that note what they were asked."""

    def __init__(self, path, role=server.ADMIN, patience=5.0):
        self.path = str(path)
        self.loop = loop.Loop()
        self.role = role
        self.asked = []
        self.later = []
        self.clients = []
        self.committed = 0
        self.steps = 0
        table = {
            "hello": lambda _, reply: reply.ok({"role": reply.role}),
            "state": self.state,
            "run": self.run,
            "cancel": lambda _, reply: self.later.append(reply),
            "follow": lambda _, reply: self.later.append(reply),
            "list": lambda _, reply: reply.ok("x" * 200_000),
            "show": self.show,
            "validate": self.validate,
            "history": self.history,
            "reload": lambda _, reply: self.flood(reply),
        }
        self.server = server.Server(self.loop, self.path, table, lambda _: self.role, patience=patience)
        self.loop.after_turn = self.after_turn

    def after_turn(self):
        self.committed = len(self.asked)
        self.server.flush()

    def state(self, request, reply):
        self.asked.append(request)
        reply.ok(len(self.asked))

    def run(self, request, reply):
        self.asked.append(request)
        reply.ok({"run_id": len(self.asked)})

    def show(self, request, reply):
        if request.job_id == "none":
            raise connection.RefusedError(control.NOT_FOUND, "no such job", ["one", "two"])
        raise KeyError(request.job_id)

    def validate(self, _, reply):
        for _ in range(40):
            self.steps += 1
            time.sleep(0.002)
            yield
        reply.ok(self.steps)

    def history(self, _, reply):
        yield
        raise ZeroDivisionError

    def flood(self, reply):
        for number in range(100):
            reply.item(str(number) * 20_000)
            self.steps += 1
            while reply.congested and reply.open:
                yield
        reply.ok(None)

    def close(self):
        self.server.close()
        self.loop.close()
        for client in self.clients:
            client.close()

    def turn(self):
        self.loop.call_soon(lambda: None)  # it does not wait for a client of this very thread
        self.loop.turn()

    def until(self, condition, seconds=10.0):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not come about"
            self.turn()


@pytest.fixture
def make(tmp_path):
    made = []

    def make_bench(**more):
        made.append(Bench(tmp_path / "s", **more))
        return made[-1]

    yield make_bench
    for bench in made:
        bench.close()


@pytest.fixture
def bench(make):
    return make()


# The envelope.


def test_a_request_is_answered_under_its_number(bench):
    client = Client(bench)
    client.send(7, "state")
    assert client.next() == [7, "ok", 1]


def test_hello_comes_first(bench):
    client = Client(bench, greet=False)
    client.send(1, "state")
    number, kind, error = client.next()
    assert (number, kind, error["code"], error["message"]) == (1, "error", control.USAGE, "say hello first")
    client.send(2, *HELLO)
    assert client.next() == [2, "ok", {"role": "admin"}]


def test_another_protocol_is_refused_with_both_named(bench):
    client = Client(bench, greet=False)
    client.send(1, "hello", {"protocol": 99, "version": "9.9"})
    message = client.next()[2]["message"]
    assert "99" in message
    assert str(control.PROTOCOL) in message
    assert "9.9" in message


def test_a_refusal_carries_code_message_and_details(bench):
    client = Client(bench)
    client.send(1, "show", {"job_id": "none"})
    assert client.next() == [1, "error", {"code": 3, "message": "no such job", "details": ["one", "two"]}]


@pytest.mark.parametrize(
    ("tag", "values", "words"),
    [
        ("nonsense", {}, "unknown request"),
        ("show", {}, "job_id"),
        ("show", {"job_id": 5}, "job_id"),
        ("follow", {"run_id": 1 << 63}, "run_id is out of range"),
        ("drain", {"timeout": float("nan")}, "timeout is not a number"),
        ("drain", {"timeout": float("inf")}, "timeout is out of range"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_and_the_connection_goes_on(bench, tag, values, words):
    client = Client(bench)
    client.send(1, tag, values)
    _, kind, error = client.next()
    assert (kind, error["code"]) == ("error", control.USAGE)
    assert words in error["message"]
    client.send(2, "state")
    assert client.next()[:2] == [2, "ok"]


@pytest.mark.parametrize(("tag", "values"), [("show", {"job_id": "a"}), ("history", {})])
def test_a_mistake_of_ours_costs_its_client_the_answer_and_nothing_else(bench, capfd, tag, values):
    client = Client(bench)
    client.send(1, tag, values)
    _, kind, error = client.next()
    assert (kind, error["code"]) == ("error", control.FAILED)
    assert "Traceback" in capfd.readouterr().err
    client.send(2, "state")
    assert client.next()[:2] == [2, "ok"]


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1",
        b"\xff" * 100,
        codec.pack(["state", {}]),
        codec.pack([1, "state", []]),
        codec.pack([1, "state", {}, None, None]),
        codec.pack([1, "state", {}, "k" * 65]),
        b"\x91" * 600 + b"\xc0",
        b"\xdd\xff\xff\xff\xff",
    ],
)
def test_what_is_no_request_is_answered_once_and_ends_the_connection(bench, body):
    other, client = Client(bench), Client(bench)
    client.raw(frames.pack(body, control.FRAME_LIMIT))
    number, kind, error = client.next()
    assert (number, kind, error["code"]) == (0, "error", control.USAGE)
    assert error["message"].startswith("protocol: ")
    assert client.is_closed()
    other.send(1, "state")
    assert other.next() == [1, "ok", 1]


@pytest.mark.parametrize("header", [b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x00\x04\x00\x01", b"GET "])
def test_a_header_is_judged_before_its_body(bench, header):
    client = Client(bench)
    client.raw(header)
    assert client.next()[1] == "error"
    assert client.is_closed()


def test_requests_before_the_fault_are_done_and_answered_after_their_commit(bench):
    client = Client(bench)
    good = frames.pack(codec.pack([1, "run", {"job_id": "a"}, "k"]), control.FRAME_LIMIT)
    client.raw(good + b"\xff" * 8)
    assert client.next() == [1, "ok", {"run_id": 1}]
    assert bench.committed == 1
    assert client.next()[0] == 0
    assert client.is_closed()


def test_a_number_that_is_under_way_is_not_given_twice(bench):
    client = Client(bench)
    client.send(1, "follow", {"run_id": 1})
    client.send(1, "follow", {"run_id": 1})
    assert "under way" in client.next()[2]["message"]
    assert client.is_closed()


def test_one_connection_has_a_bounded_number_of_requests_under_way(bench):
    client = Client(bench)
    for number in range(1, 66):
        client.send(number, "follow", {"run_id": 1})
    assert "64 requests" in client.next()[2]["message"]
    assert client.is_closed()
    assert len(bench.later) == 64
    assert not any(reply.open for reply in bench.later)


def test_an_answer_that_cannot_be_carried_is_an_error(bench, capfd):
    client = Client(bench)
    client.send(1, "follow", {"run_id": 1})
    bench.until(lambda: bench.later)
    bench.later[0].ok({1, 2})
    number, kind, error = client.next()
    assert (number, kind) == (1, "error")
    assert "set" in error["message"]


# Who.


def test_a_peer_without_a_role_is_refused_before_its_request_is_read(make):
    bench = make(role=None)
    client = Client(bench, greet=False)
    client.send(1, "run", {"job_id": "a"})
    number, kind, error = client.next()
    assert (number, kind, error["code"]) == (0, "error", control.NOT_ALLOWED)
    assert client.is_closed()
    assert bench.asked == []


def test_an_operator_may_run_and_not_reload(make):
    bench = make(role=server.OPERATOR)
    client = Client(bench)
    client.send(1, "run", {"job_id": "a"})
    assert client.next()[1] == "ok"
    client.send(2, "reload")
    _, kind, error = client.next()
    assert (kind, error["code"]) == ("error", control.NOT_ALLOWED)
    assert bench.steps == 0


def test_operators_may_pause_and_trigger_and_not_rename():
    assert {"pause", "resume", "trigger"} <= control.OPERATOR
    assert "rename" not in control.OPERATOR


def test_roles_go_by_uid_and_group():
    group = grp.getgrgid(os.getegid())
    role_of = server.role_by(group.gr_name, "no-such-group", 4711)
    peer = types.SimpleNamespace
    assert role_of(peer(uid=0, gids=set())) == server.ADMIN
    assert role_of(peer(uid=4711, gids=set())) == server.ADMIN
    assert role_of(peer(uid=5, gids={group.gr_gid})) == server.ADMIN
    assert role_of(peer(uid=5, gids={group.gr_gid + 1})) is None
    assert server.role_by(None, group.gr_name, 4711)(peer(uid=5, gids={group.gr_gid})) == server.OPERATOR
    assert server.role_by(None, None, 4711)(peer(uid=5, gids=set())) is None


def test_a_peer_is_who_the_kernel_says():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = connection.Peer(ours)
    assert (peer.pid, peer.uid) == (os.getpid(), os.geteuid())
    assert {os.getegid(), *os.getgroups()} <= peer.gids


# Repeated requests.


def test_a_repeated_key_has_one_effect_and_the_same_answer(bench):
    client = Client(bench)
    client.send(1, "run", {"job_id": "a"}, "key")
    assert client.next() == [1, "ok", {"run_id": 1}]
    again = Client(bench)
    again.send(5, "run", {"job_id": "a"}, "key")
    assert again.next() == [5, "ok", {"run_id": 1}]
    again.send(6, "run", {"job_id": "a"}, "another")
    assert again.next() == [6, "ok", {"run_id": 2}]


def test_a_request_repeated_while_the_first_is_under_way_waits_for_its_answer(bench):
    first, second = Client(bench), Client(bench)
    first.send(1, "cancel", {"run_id": 1}, "key")
    bench.until(lambda: bench.later)
    second.send(2, "cancel", {"run_id": 1}, "key")
    for _ in range(5):
        bench.turn()
    assert len(bench.later) == 1
    bench.later[0].ok("gone")
    assert first.next() == [1, "ok", "gone"]
    assert second.next() == [2, "ok", "gone"]


def test_a_client_that_vanished_learns_the_answer_when_it_asks_again(bench):
    first = Client(bench)
    first.send(1, "cancel", {"run_id": 1}, "key")
    bench.until(lambda: bench.later)
    first.close()
    bench.until(lambda: not bench.later[0].open)
    waits = Client(bench)
    waits.send(1, "cancel", {"run_id": 1}, "key")
    bench.turn()
    bench.later[0].ok("gone")
    assert waits.next() == [1, "ok", "gone"]
    late = Client(bench)
    late.send(1, "cancel", {"run_id": 1}, "key")
    assert late.next() == [1, "ok", "gone"]
    assert len(bench.later) == 1


def test_a_key_is_no_key_before_hello_nor_of_what_changes_nothing(bench):
    client = Client(bench, greet=False)
    client.send(1, "run", {"job_id": "a"}, "key")
    assert client.next()[1] == "error"
    client.send(2, *HELLO, "key")
    assert client.next()[1] == "ok"
    client.send(3, "state", {}, "key")
    client.send(4, "state", {}, "key")
    assert [client.next(), client.next()] == [[3, "ok", 1], [4, "ok", 2]]
    client.send(5, "run", {"job_id": "a"}, "key")
    assert client.next() == [5, "ok", {"run_id": 3}]


def test_remembered_answers_are_bounded_in_bytes_and_number(bench):
    client = Client(bench)
    for number in range(50):
        client.send(number, "cancel", {"run_id": 1}, f"large {number}")
        bench.until(lambda: bench.later)
        bench.later.pop().ok("x" * 250_000)
        assert client.next()[1] == "ok"
    assert bench.server._answers_size <= 8 * 1024 * 1024
    assert len(bench.server._answers) < 50
    for number in range(1100):
        client.send(number, "run", {"job_id": "a"}, f"small {number}")
        assert client.next()[1] == "ok"
    assert len(bench.server._answers) == 1024
    assert bench.server._answers_size == sum(size for _, size in bench.server._answers.values())


# Time and room.


def test_half_a_frame_times_out(make):
    bench = make(patience=0.05)
    client = Client(bench)
    client.raw(b"\x00\x00\x00")
    began = time.monotonic()
    assert client.is_closed()
    assert time.monotonic() - began >= 0.04


def test_half_a_frame_times_out_though_it_grows(make):
    bench = make(patience=0.1)
    client = Client(bench)
    client.raw(b"\x00\x03\x00\x00")
    began = time.monotonic()
    while not client.ended:
        assert time.monotonic() - began < 5
        try:
            client.raw(b"x")
        except BrokenPipeError:
            break
        bench.turn()
        client.read()
    assert time.monotonic() - began >= 0.09


def test_half_a_frame_that_we_do_not_read_on_does_not_time_out(make):
    bench = make(patience=0.05)
    client = Client(bench)
    frame = frames.pack(codec.pack([1, "list", {}, None]), control.FRAME_LIMIT)
    client.raw(frame * 20 + frame[:5])
    over = []
    bench.loop.call_at(time.monotonic() + 0.15, lambda: over.append(1))
    bench.until(lambda: over)
    bench.until(lambda: client.read() or len(client.got) == 20)
    client.raw(frame[5:])
    assert client.next()[1] == "ok"
    assert not client.ended


def test_a_whole_frame_gives_the_next_one_its_time(make):
    bench = make(patience=0.15)
    client = Client(bench)
    frame = frames.pack(codec.pack([1, "state", {}, None]), control.FRAME_LIMIT)
    until = time.monotonic() + 0.4
    while time.monotonic() < until:
        client.raw(frame[:3])
        bench.turn()
        client.raw(frame[3:])
        assert client.next()[1] == "ok"
    client.raw(frame[:3])
    assert client.is_closed()


def test_the_oldest_silent_one_makes_room_for_a_new_client(bench, monkeypatch):
    monkeypatch.setattr(server, "CLIENTS", 3)
    waits, oldest, newer = Client(bench), Client(bench), Client(bench)
    waits.send(1, "follow", {"run_id": 1})
    bench.until(lambda: bench.later)
    newer.send(1, "state")
    assert newer.next()[1] == "ok"
    another = Client(bench)
    assert oldest.is_closed()
    for each in (newer, another):
        each.send(2, "state")
        assert each.next()[1] == "ok"
    assert bench.later[0].open


def test_too_many_clients_that_wait_are_told_so(bench, monkeypatch):
    monkeypatch.setattr(server, "CLIENTS", 2)
    for _ in range(2):
        Client(bench).send(1, "follow", {"run_id": 1})
    bench.until(lambda: len(bench.later) == 2)
    number, kind, error = Client(bench, greet=False).next()
    assert (number, kind, error["code"]) == (0, "error", control.UNAVAILABLE)


def test_operators_cannot_keep_an_administrator_out(bench, monkeypatch):
    monkeypatch.setattr(server, "CLIENTS", 2)
    bench.role = server.OPERATOR
    first, second = Client(bench), Client(bench)
    for each in (first, second):
        each.send(1, "follow", {"run_id": 1})
        bench.until(lambda: bench.later and bench.later.pop())
    bench.role = server.ADMIN
    admin = Client(bench)
    admin.send(1, "state")
    assert admin.next()[1] == "ok"
    assert first.is_closed()


def test_a_client_that_does_not_read_is_asked_for_nothing_more(bench):
    other, client = Client(bench), Client(bench)
    requests = frames.pack(codec.pack([1, "list", {}, None]), control.FRAME_LIMIT) * 60_000
    sent = 0
    for _ in range(200):
        with contextlib.suppress(BlockingIOError):
            sent += client.sock.send(requests[sent:])
        bench.turn()
    assert sent < len(requests)
    [connection] = [each for each in bench.server._connections.values() if each._unread]
    assert connection.congested
    assert len(connection._out) < 1024 * 1024
    other.send(1, "state")
    assert other.next() == [1, "ok", 1]


def test_a_client_that_asks_much_and_reads_gets_all_of_it(bench):
    client = Client(bench)
    for number in range(1, 61):  # 12 MB of answers, three times what is kept for one that does not read
        client.send(number, "list")
        client.read()
    bench.until(lambda: client.read() or len(client.got) == 60)
    assert [answer[0] for answer in client.got] == list(range(1, 61))


def test_a_client_that_is_sent_too_much_and_does_not_read_is_closed(bench):
    client = Client(bench)
    client.send(1, "follow", {"run_id": 1})
    bench.until(lambda: bench.later)
    gone = []
    bench.later[0].on_gone = lambda: gone.append(1)
    for _ in range(100):
        bench.later[0].item("x" * 100_000)
        bench.turn()
    assert gone == [1]
    assert not bench.later[0].open
    assert client.is_closed()


def test_a_follower_that_reads_again_is_told_that_there_is_room(bench):
    client = Client(bench)
    client.send(1, "follow", {"run_id": 1})
    bench.until(lambda: bench.later)
    [reply] = bench.later
    room = []
    while not reply.congested:
        reply.item("x" * 100_000)
        bench.turn()
    reply.on_room = lambda: room.append(1)
    for _ in range(5):
        bench.turn()
    assert not room
    bench.until(lambda: client.read() or room)
    assert not reply.congested


def test_many_requests_of_one_client_do_not_hold_up_another(bench):
    greedy, other = Client(bench), Client(bench)
    slow = frames.pack(codec.pack([1, "list", {}, None]), control.FRAME_LIMIT)
    greedy.raw(slow * 3000)
    other.send(1, "state")
    began = time.monotonic()
    assert other.next() == [1, "ok", 1]
    assert time.monotonic() - began < 0.5


def test_a_long_request_is_done_a_slice_a_turn_beside_others(bench):
    client, other = Client(bench), Client(bench)
    client.send(1, "validate")
    bench.until(lambda: bench.steps)
    assert bench.steps < 40
    other.send(1, "state")
    assert other.next() == [1, "ok", 1]
    assert bench.steps < 40
    assert client.next() == [1, "ok", 40]


def test_many_long_requests_share_one_slice_a_turn(bench):
    clients = [Client(bench) for _ in range(20)]
    for client in clients:
        client.send(1, "validate")
    bench.until(lambda: len(bench.server._long) == 20)
    began = time.monotonic()
    bench.turn()
    assert time.monotonic() - began < 0.1


def test_a_long_request_rests_while_its_client_does_not_read(bench):
    client = Client(bench)
    client.send(1, "reload")
    bench.until(lambda: any(reply.congested for _, reply in bench.server._long))
    steps, began = bench.steps, time.process_time()
    over = []
    bench.loop.call_at(time.monotonic() + 0.2, lambda: over.append(1))
    while not over:
        bench.loop.turn()  # sleeps: nothing is to be done
    assert time.process_time() - began < 0.1
    assert bench.steps == steps < 100
    bench.until(lambda: client.read() or (client.got and client.got[-1][1] == "ok"))
    assert len(client.got) == 101


def test_a_long_request_goes_on_to_its_end_when_its_client_is_gone(bench):
    client = Client(bench)
    client.send(1, "reload", {}, "key")
    bench.until(lambda: any(reply.congested for _, reply in bench.server._long))
    client.close()
    bench.until(lambda: bench.steps == 100)
    again = Client(bench)
    again.send(1, "reload", {}, "key")
    assert again.next() == [1, "ok", None]
    assert bench.steps == 100


def test_descriptors_that_are_sent_along_are_dropped(bench):
    client = Client(bench)
    before = len(os.listdir("/proc/self/fd"))
    frame = frames.pack(codec.pack([1, "state", {}, None]), control.FRAME_LIMIT)
    for _ in range(10):
        socket.send_fds(client.sock, [frame], [0] * 100)
        assert client.next()[1] == "ok"
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_socket_that_a_dead_daemon_left_is_replaced_and_the_end_takes_it_away(tmp_path):
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "s"))
    dead.close()
    bench = Bench(tmp_path / "s")
    client = Client(bench)
    bench.server.close()
    assert client.is_closed()
    assert os.listdir(tmp_path) == []
    bench.close()
