"""The small files of a job: the old one or the new one, whatever is killed, and never one that is too long."""

import os
import subprocess
import sys

import peers
import pytest

from lnmt_scheduler.jobs import keep


def test_what_was_kept_is_read(tmp_path):
    path = str(tmp_path / "state.json")
    assert keep.read(path) == {}
    keep.write(path, {"a": [1, "ü"]})
    keep.write(path, {"a": [2, "ü"]})
    assert keep.read(path) == {"a": [2, "ü"]}
    assert os.listdir(tmp_path) == ["state.json"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'"' + b"x" * 200_000 + b'"'])
def test_a_damaged_one_is_put_aside_and_said(tmp_path, capsys, damage):
    path = tmp_path / "state.json"
    path.write_bytes(damage)
    assert keep.read(str(path), limit=150_000) == {}
    assert "the job begins anew" in capsys.readouterr().err
    assert (tmp_path / "state.json.damaged").read_bytes() == damage
    assert not path.exists()


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = str(tmp_path / "state.json")
    keep.write(path, {"n": 1})
    with pytest.raises(TypeError):
        keep.write(path, {"n": object()})
    assert keep.read(path) == {"n": 1}


@pytest.mark.slow
def test_a_writer_that_is_killed_at_any_time_leaves_a_whole_value(tmp_path):
    path = str(tmp_path / "state.json")
    program = (
        "import sys\nfrom lnmt_scheduler.jobs import keep\nn = 0\nprint('up', flush=True)\n"
        "while True:\n    n += 1\n    keep.write(sys.argv[1], {'n': n, 'same': [n] * 5000})\n"
    )
    for _ in range(10):
        with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            began = keep.read(path).get("n", 0)
            while keep.read(path).get("n", 0) == began:
                pass
            writer.kill()
        found = keep.read(path)
        assert found["same"] == [found["n"]] * 5000
    keep.write(path, {"n": 0})
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_full_disk_leaves_what_was_there(tmp_path):
    with peers.small_disk(tmp_path / "small", "1m") as folder:
        path = str(folder / "state.json")
        keep.write(path, {"n": 1})
        with pytest.raises(OSError, match="No space left"):
            keep.write(path, {"n": "x" * (2 << 20)})
        assert keep.read(path) == {"n": 1}
        assert os.listdir(folder) == ["state.json"]
