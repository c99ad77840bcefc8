"""schedctl, called in this process, with its own fake daemon."""

import time
from dataclasses import dataclass

import deciding
import fakes
import pytest
import samples

from lnmt_scheduler.supervisor import cli


@dataclass
class Done:
    code: int
    out: str
    err: str


class Schedctl:
    """Call it with a command line; `serve` puts a daemon behind it."""

    def __init__(self, path, capsys):
        self.path = str(path)
        self._capsys = capsys
        self._servers = []

    def __call__(self, *arguments):
        self._capsys.readouterr()
        code = cli.run(["--socket", self.path, *arguments])
        return Done(code, *self._capsys.readouterr())

    def serve(self, **answers):
        """Answers by name of the request; `import` is written `import_`."""
        # Many commands ask for the settings in force, whatever else they ask for.
        answers = {"state": lambda _: samples.STATE, **answers}
        server = fakes.FakeServer(self.path, **{name.rstrip("_"): answer for name, answer in answers.items()})
        self._servers.append(server)
        return server

    def close(self):
        for server in self._servers:
            server.close()


@pytest.fixture
def schedctl(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    caller = Schedctl(tmp_path / "control.sock", capsys)
    yield caller
    caller.close()
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def make_world(tmp_path, monkeypatch):
    """Make the deciding half of a daemon, at 12:00:30 of a Monday."""
    made = []

    def make(**settings):
        made.append(deciding.World(tmp_path, monkeypatch, **settings))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(make_world):
    return make_world()
