import os

import pytest

from lnmt_scheduler.supervisor import paths


def test_a_state_directory_holds_everything():
    found = paths.resolve(state_dir="/srv/s")
    assert found.config_file == "/srv/s/config.toml"
    assert found.jobs_d == "/srv/s/jobs.d"
    assert found.socket == "/srv/s/control.sock"
    assert found.database == "/srv/s/lnmt.db"
    assert found.output_dir == "/srv/s/output"
    assert found.lock == "/srv/s/lock"
    assert found.state_dir == found.runtime_dir == "/srv/s"


def test_a_relative_state_directory_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert paths.resolve(state_dir="s").database == f"{os.getcwd()}/s/lnmt.db"


def test_the_system_has_its_places():
    found = paths.resolve(layout="system", env={})
    assert found.config_file == "/etc/lnmt-scheduler/config.toml"
    assert found.database == "/var/lib/lnmt-scheduler/lnmt.db"
    assert found.socket == "/run/lnmt-scheduler/control.sock"


def test_the_service_managers_directories_are_honoured():
    env = {"STATE_DIRECTORY": "/a:/b", "RUNTIME_DIRECTORY": "/r", "CONFIGURATION_DIRECTORY": "/c"}
    found = paths.resolve(env=env)
    assert (found.state_dir, found.socket, found.jobs_d) == ("/a", "/r/control.sock", "/c/jobs.d")


def test_a_person_has_the_xdg_directories(tmp_path):
    env = {
        "HOME": "/home/p",
        "XDG_CONFIG_HOME": "/x/config",
        "XDG_STATE_HOME": "relative/is/ignored",
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    found = paths.resolve(layout="user", env=env)
    assert found.config_file == "/x/config/lnmt-scheduler/config.toml"
    assert found.database == "/home/p/.local/state/lnmt-scheduler/lnmt.db"
    assert found.socket == f"{tmp_path}/lnmt-scheduler/control.sock"


def test_without_a_runtime_directory_the_socket_is_beside_the_state():
    found = paths.resolve(layout="user", env={"HOME": "/home/p", "XDG_RUNTIME_DIR": "/does/not/exist"})
    assert found.socket == "/home/p/.local/state/lnmt-scheduler/control.sock"


def test_a_configuration_of_its_own_moves_nothing_else():
    found = paths.resolve(state_dir="/srv/s", config="/etc/other.toml")
    assert (found.config_file, found.jobs_d) == ("/etc/other.toml", "/srv/s/jobs.d")


def test_schedctl_in_a_service_does_not_take_its_directories_for_the_daemons():
    found = paths.find(layout="system", env={"STATE_DIRECTORY": "/var/lib/other"})
    assert found.state_dir == "/var/lib/lnmt-scheduler"


@pytest.mark.skipif(os.path.exists("/run/lnmt-scheduler/control.sock"), reason="this host has a daemon")
def test_schedctl_takes_a_persons_daemon_where_the_system_has_none(tmp_path):
    socket = tmp_path / "lnmt-scheduler" / "control.sock"
    socket.parent.mkdir()
    socket.touch()
    found = paths.find(env={"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)})
    assert found.socket == str(socket)


def test_a_bound_path_cannot_be_bound_again(tmp_path):
    path = str(tmp_path / "s")
    with paths.bind(path), pytest.raises(OSError, match="in use"):
        paths.bind(path)
