import os
import subprocess
import threading
import time

import fakes
import pytest

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import client, paths


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "control.sock")


def test_a_request_gets_its_value(path):
    with fakes.FakeServer(path, state=lambda _: {"jobs": 3}), client.Client(path) as daemon:
        assert daemon.request(control.State()) == {"jobs": 3}


def test_the_server_is_known_from_its_hello(path):
    with fakes.FakeServer(path), client.Client(path) as daemon:
        assert daemon.server["protocol"] == control.PROTOCOL
        assert daemon.server["role"] == "admin"


def test_items_come_before_the_value(path):
    def follow(_):
        yield {"kind": "gap", "bytes": 1}
        yield {"kind": "gap", "bytes": 2}
        return {"run": 7}

    with fakes.FakeServer(path, follow=follow), client.Client(path) as daemon:
        stream = daemon.stream(control.Follow(run_id=7))
        assert [item["bytes"] for item in stream] == [1, 2]
        assert stream.value == {"run": 7}


def test_an_error_has_code_message_and_details(path):
    def show(_):
        raise fakes.Refuse(3, "no job 'x'", ["did you mean 'y'?"])

    with fakes.FakeServer(path, show=show), client.Client(path) as daemon:
        with pytest.raises(client.RequestError, match="no job 'x'") as caught:
            daemon.request(control.Show(job_id="x"))
        assert (caught.value.code, caught.value.details) == (3, ("did you mean 'y'?",))


def test_the_connection_goes_on_after_an_error(path):
    def show(_):
        raise fakes.Refuse(3, "no job")

    with fakes.FakeServer(path, show=show, state=lambda _: 1), client.Client(path) as daemon:
        with pytest.raises(client.RequestError):
            daemon.request(control.Show(job_id="x"))
        assert daemon.request(control.State()) == 1


def test_a_change_has_a_key_of_its_own_and_a_look_has_none(path):
    with fakes.FakeServer(path, run=lambda _: {"run_id": 1}, state=lambda _: {}) as server:
        with client.Client(path) as daemon:
            daemon.request(control.Run(job_id="a"))
            daemon.request(control.Run(job_id="a"))
            daemon.request(control.State())
            daemon.request(control.Run(job_id="a"), key="mine")
        keys = [key for _, _, key in server.requests]
    assert keys[0] != keys[1]
    assert None not in keys[:2]
    assert keys[2:] == [None, "mine"]


def test_a_missing_socket_says_where_and_how_to_start(path):
    with pytest.raises(client.Unreachable, match=r"not running at .*control.sock; start it with: schedd --x") as caught:
        client.Client(path, start_hint="schedd --x")
    assert caught.value.code == 69


def test_a_socket_without_a_listener_is_unreachable(path):
    paths.bind(path).close()
    with pytest.raises(client.Unreachable, match="not running"):
        client.Client(path)


def test_a_daemon_that_goes_away_is_unreachable(path):
    with fakes.FakeServer(path, stop=lambda _: {}), client.Client(path) as daemon:
        daemon.request(control.Stop())
        with pytest.raises(client.Unreachable, match=r"closed the connection|connection to the daemon broke"):
            daemon.request(control.State())


def test_wait_for_end_returns_when_the_daemon_hangs_up(path):
    with fakes.FakeServer(path, stop=lambda _: {}), client.Client(path) as daemon:
        daemon.request(control.Stop())
        daemon.wait_for_end()


def test_stop_returns_when_the_main_process_has_gone_too(path):
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as main:
        told = {"pid": os.getpid(), "launcher_pid": main.pid}
        late = threading.Timer(0.1, main.stdin.close)
        with fakes.FakeServer(path, stop=lambda _: late.start(), state=lambda _: told), client.Client(path) as daemon:
            daemon.stop()
        assert main.poll() == 0


def test_an_error_sent_before_any_request_is_told(path):
    listener = paths.bind(path)
    listener.listen()

    def refuse():
        sock, _ = listener.accept()
        with sock:
            from lnmt_scheduler.ipc import channel, codec  # noqa: PLC0415 - only this thread speaks by hand

            value = {"code": 77, "message": "you have no role here", "details": []}
            channel.write_frame(sock, codec.pack([0, "error", value]), control.FRAME_LIMIT)

    thread = threading.Thread(target=refuse)
    thread.start()
    with pytest.raises(client.RequestError, match="no role") as caught:
        client.Client(path)
    thread.join()
    listener.close()
    assert caught.value.code == 77


def test_a_server_of_another_protocol_is_named_so(path):
    listener = paths.bind(path)
    listener.listen()

    def talk():
        sock, _ = listener.accept()
        with sock:
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    thread = threading.Thread(target=talk)
    thread.start()
    with pytest.raises(client.Unreachable, match="does not speak"):
        client.Client(path)
    thread.join()
    listener.close()


def test_a_deadline_ends_the_wait(path):
    release = threading.Event()

    def follow(_):
        release.wait(10)
        return {}

    with fakes.FakeServer(path, follow=follow), client.Client(path) as daemon:
        daemon.deadline = time.monotonic() + 0.05
        with pytest.raises(TimeoutError):
            daemon.request(control.Follow(run_id=1))
        release.set()


def test_a_request_larger_than_a_frame_is_refused_here(path):
    with fakes.FakeServer(path) as server, client.Client(path) as daemon:
        with pytest.raises(client.RequestError, match="cannot be sent") as caught:
            daemon.request(control.Upload(data=bytes(control.FRAME_LIMIT)))
        assert caught.value.code == control.INVALID
        assert server.requests == []


def test_a_path_too_long_for_a_socket_is_reached(tmp_path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    path = str(deep / "control.sock")
    assert len(path) > 108
    with fakes.FakeServer(path, state=lambda _: "here"), client.Client(path) as daemon:
        assert daemon.request(control.State()) == "here"


def test_no_descriptor_is_left_behind(path):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(client.Unreachable):
            client.Client(path)
    assert len(os.listdir("/proc/self/fd")) == before
