"""Log rotation by the real logrotate: what it does, gives back and complains about, and what is left when it is killed."""

import bz2
import contextlib
import gzip
import lzma
import os
import subprocess
from pathlib import Path

import peers
import pytest

from lnmt_scheduler.jobs import maintenance, rotation

DAILY = ["daily", "rotate 3", "compress", "missingok"]
XZ = ["compresscmd /usr/bin/xz", "compressext .xz"]
BZ2 = ["compresscmd /bin/bzip2", "compressext .bz2"]
OTHER = ["compresscmd /bin/gzip", "compressoptions -S .other", "compressext .other"]
UNPACK = {".gz": gzip.decompress, ".other": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}


@pytest.fixture
def state(tmp_path, monkeypatch):
    for name, package in (("logrotate", "logrotate"), ("xz", "xz-utils"), ("bzip2", "bzip2")):
        peers.program(name, package)
    folder = tmp_path / "state"
    folder.mkdir()
    monkeypatch.setenv("LNMT_STATE_DIR", str(folder))
    return folder


@pytest.fixture
def logs(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir(mode=0o755)
    return folder


def lines_in(folder: Path) -> list[str]:
    """All lines of a log and its older versions, packed or not."""
    found = []
    for path in folder.iterdir():
        data = path.read_bytes()
        found += UNPACK.get(path.suffix, bytes)(data).decode().splitlines()
    return sorted(found)


def test_a_log_is_rotated_compressed_and_at_last_removed_and_the_bytes_are_told(state, logs):
    freed = []
    for number in range(5):
        (logs / "app.log").write_text(f"round {number} {'x' * 1_000_000}\n")
        found = maintenance.log_rotation(logs=[f"{logs}/*.log"], directives=DAILY, force=True)
        assert (found["logs"], found["rotated"], found["errors"]) == (1, [f"{logs}/app.log"], [])
        freed.append(found["freed"])
    assert sorted(path.name for path in logs.iterdir()) == ["app.log.1.gz", "app.log.2.gz", "app.log.3.gz"]
    assert all(each > 900_000 for each in freed)
    assert (state / "logrotate.status").exists()


def test_what_is_not_due_is_left_alone(state, logs):
    (logs / "app.log").write_text("words\n")
    first = maintenance.log_rotation(logs=[f"{logs}/app.log"], directives=DAILY)
    assert (first["logs"], first["rotated_count"], first["freed"]) == (1, 0, 0)
    assert (logs / "app.log").read_text() == "words\n"


def test_older_versions_in_another_folder_are_counted_too(state, logs, tmp_path):
    (tmp_path / "old").mkdir()
    (logs / "app.log").write_text("x" * 1_000_000)
    found = maintenance.log_rotation(
        logs=[f"{logs}/app.log"], directives=["rotate 1", f"olddir {tmp_path}/old"], force=True
    )
    assert found["freed"] == 0
    assert found["bytes_before"] >= 1_000_000
    assert (tmp_path / "old" / "app.log.1").exists()


def test_what_logrotate_complains_about_fails_the_job_after_the_rest_was_done(state, logs, tmp_path, capsys):
    (logs / "app.log").write_text("words\n")
    (logs / "bad.log").write_text("words\n")
    configuration = tmp_path / "logrotate.conf"
    configuration.write_text(
        f"{logs}/app.log {{\n rotate 1\n}}\n{logs}/bad.log {{\n rotate 1\n postrotate\n  exit 3\n endscript\n}}\n"
    )
    with pytest.raises(SystemExit) as ended:
        maintenance.log_rotation(str(configuration), force=True)
    assert ended.value.code == 1
    assert "error: error running non-shared postrotate script" in capsys.readouterr().out
    assert (logs / "app.log.1").exists()


def test_a_folder_that_others_may_write_to_is_an_error(state, logs, capsys):
    if os.geteuid() != 0:
        pytest.skip("root, for whom alone logrotate looks at that")
    logs.chmod(0o777)
    (logs / "app.log").write_text("words\n")
    with pytest.raises(SystemExit):
        maintenance.log_rotation(logs=[f"{logs}/app.log"], directives=DAILY, force=True)
    assert "insecure permissions" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [{}, {"configuration": "/x", "logs": ["/y"]}, {"logs": ["relative"]}, {"logs": ['/a" {\n']},
     {"logs": ["/a"], "directives": ["}\n/etc/passwd {"]}],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_one_line(state, capsys, wrong):
    with pytest.raises(SystemExit) as ended:
        maintenance.log_rotation(**wrong)
    assert ended.value.code == 78
    assert capsys.readouterr().err.count("\n") == 1


def test_a_configuration_is_written_as_it_was_meant():
    assert rotation.configuration(["/var/log/a.log", "/srv/*.log"], ["weekly", "rotate 2"]) == (
        '"/var/log/a.log" "/srv/*.log" {\n    weekly\n    rotate 2\n}\n'
    )


@pytest.mark.parametrize("half", [None, b"", b"\x1f\x8b half of a packed version"])
def test_what_a_killed_rotation_has_not_packed_is_not_written_over(state, logs, half):
    (logs / "app.log").write_text("new\n")
    (logs / "app.log.1").write_text("old\n")
    (logs / "app.log.1").chmod(0o640)
    if half is not None:
        (logs / "app.log.1.gz").write_bytes(half)
    found = maintenance.log_rotation(logs=[f"{logs}/app.log"], directives=DAILY, force=True)
    assert (found["rotated_count"], found["errors"]) == (1, [])
    assert lines_in(logs) == ["new", "old"]
    assert gzip.decompress((logs / "app.log.2.gz").read_bytes()) == b"old\n"
    assert (logs / "app.log.2.gz").stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in logs.iterdir()) == ["app.log.1.gz", "app.log.2.gz"]


@pytest.mark.parametrize("packing", [[], XZ, OTHER])
@pytest.mark.parametrize("delay", [[], ["delaycompress"]])
def test_as_many_versions_stay_as_are_wanted_however_they_are_packed(state, logs, packing, delay):
    for number in range(6):
        (logs / "app.log").write_text(f"round {number}\n")
        directives = ["weekly", "rotate 4", "compress", *delay, *packing]
        assert maintenance.log_rotation(logs=[f"{logs}/app.log"], directives=directives, force=True)["errors"] == []
    assert lines_in(logs) == [f"round {number}" for number in range(2, 6)]


@pytest.mark.parametrize("packing", [XZ, BZ2])
def test_what_was_not_packed_is_packed_by_the_name_that_is_moved_on(state, logs, packing):
    (logs / "app.log").write_text("new\n")
    (logs / "app.log.1").write_text("old\n")
    maintenance.log_rotation(logs=[f"{logs}/app.log"], directives=[*DAILY, *packing], force=True)
    assert lines_in(logs) == ["new", "old"]
    assert len({path.suffix for path in logs.iterdir()}) == 1


@pytest.mark.parametrize(
    ("packing", "packed", "words"),
    [(OTHER, None, "pack it as '/"), ([], b"older\n", "app.log.1.gz' is another"), (XZ, b"older\n", "is another")],
)
def test_where_a_version_would_be_lost_nothing_is_rotated(state, logs, capsys, packing, packed, words):
    (logs / "app.log").write_text("new\n")
    (logs / "app.log.1").write_text("old\n")
    if packed is not None:
        (logs / "app.log.1.gz").write_bytes(gzip.compress(packed))
        (logs / "app.log.1.xz").write_bytes(lzma.compress(packed))
    before = lines_in(logs)
    with pytest.raises(SystemExit) as ended:
        maintenance.log_rotation(logs=[f"{logs}/app.log"], directives=[*DAILY, *packing], force=True)
    assert ended.value.code == 78
    assert words in capsys.readouterr().err
    assert lines_in(logs) == before


def test_of_many_logs_with_many_versions_none_is_passed_over(state, logs, capsys, monkeypatch):
    names = [f"{'a' * 60}{number}.log" for number in range(8)]
    for name in names:
        (logs / name).write_text("new\n")
        (logs / f"{name}.1").write_text("old\n")
    given = {"logs": [f"{logs}/*.log"], "directives": ["rotate 1000", "compress"], "force": True}
    with monkeypatch.context() as patch:
        patch.setattr(rotation, "_SAID_LIMIT", 1 << 20)
        with pytest.raises(SystemExit):
            maintenance.log_rotation(**given)
    assert "name fewer" in capsys.readouterr().err
    assert maintenance.log_rotation(**given)["rotated_count"] == 8
    assert lines_in(logs) == ["new"] * 8 + ["old"] * 8


def test_a_version_that_is_to_go_is_not_packed(state, logs):
    for number in range(4):
        (logs / f"app.log.{number}").write_text(f"version {number}\n")
    (logs / "app.log").write_text("new\n")
    (logs / "app.log.0").unlink()
    maintenance.log_rotation(logs=[f"{logs}/app.log"], directives=["rotate 2", "nocompress"], force=True)
    assert sorted(path.name for path in logs.iterdir()) == ["app.log.1", "app.log.2"]


@pytest.mark.slow
@pytest.mark.parametrize("packing", [[], XZ])
def test_a_rotation_that_is_killed_at_any_time_loses_no_line(state, logs, packing):
    directives = ["rotate 100", "compress", "missingok", *packing]
    program = (
        "import sys\nfrom lnmt_scheduler.jobs import maintenance\nprint('up', flush=True)\n"
        "maintenance.log_rotation(logs=[sys.argv[1]], directives=sys.argv[2:], force=True)\n"
    )
    written = []
    for number in range(10):
        words = f"round {number} {'x' * 200_000}"
        written.append(words)
        with (logs / "app.log").open("a") as file:
            file.write(words + "\n")
        command = [peers.PYTHON, "-c", program, f"{logs}/app.log", *directives]
        with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as job:
            assert job.stdout is not None
            job.stdout.readline()
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.wait(0.003 * number)
            with contextlib.suppress(ProcessLookupError):
                peers.kill_group(job.pid)
    with (logs / "app.log").open("a") as file:  # or there may be nothing to rotate, and nothing is packed
        file.write("the last\n")
    with contextlib.suppress(SystemExit):
        maintenance.log_rotation(logs=[f"{logs}/app.log"], directives=directives, force=True)
    assert set(written) <= set(lines_in(logs))
