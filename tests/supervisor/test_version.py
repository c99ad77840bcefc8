"""Which version the next supervisor would be of."""

from pathlib import Path

import pytest

from lnmt_scheduler.supervisor import version

INSIDE = "lib/python3.{}/site-packages/lnmt_scheduler/supervisor/version.py"


def put(home: Path, name: str, minor: int = 11) -> str:
    path = home / name / INSIDE.format(minor)
    path.parent.mkdir(parents=True)
    path.write_text(f'"""..."""\n\nVERSION = "{name}"\nYEAR = 2026\n')
    return str(path)


def test_an_upgrade_in_place_is_seen(tmp_path):
    where = put(tmp_path, "1.0")
    assert version.on_disk(where) == "1.0"
    Path(where).write_text('VERSION = "1.1"\n')
    assert version.on_disk(where) == "1.1"
    Path(where).unlink()
    assert version.on_disk(where) == "none"
    assert version.on_disk() == version.VERSION


@pytest.mark.parametrize("minor", [11, 12])
def test_a_version_beside_ours_counts_once_it_is_current(tmp_path, minor):
    ours = put(tmp_path, "1.0")
    put(tmp_path, "2.0", minor)
    (tmp_path / "current").symlink_to("1.0")
    assert version.on_disk(ours) == "1.0"
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("2.0")
    assert version.on_disk(ours) == "2.0"
