"""What is wanted of the daemon, by its files: the configuration and the job files, at its start and at each reload.

All of it is read and checked before any of it applies, so a mistake anywhere changes nothing. A reload that a client asks for
is driven a piece at a time and answered; one by a signal is told in the journal.
"""

import os
from collections.abc import Callable, Generator, Iterator, Sequence

from lnmt_scheduler.jobs import load
from lnmt_scheduler.supervisor import bulk, config, connection, definitions, journal, notices, paths, planning, vetting

_SUFFIXES = (".json", ".toml")


class Desired:
    def __init__(self, where: paths.Paths, *, named: bool, job_files: Sequence[str]) -> None:
        """`named`: somebody has named the configuration file, so it must be there. `job_files` are of the command line."""
        self._paths = where
        self._named = named
        self._job_files = job_files

    def settings(self) -> config.Settings:
        """The configuration; ConfigError if there is anything wrong with it."""
        path = self._paths.config_file
        there = self._named or os.path.exists(path)
        return config.load(path if there else None, is_root=os.geteuid() == 0)

    def plan(self, planner: planning.Planner, settings: config.Settings) -> Generator[None, None, planning.Plan]:
        """What has to change for the jobs to be those of the files. JobsInvalid or RefusedError if they cannot be."""
        return planner.plan(
            self._documents(settings),
            owned=lambda source: source.startswith(definitions.FILE),
            prune=True,
            settings=settings,
        )

    def _documents(self, settings: config.Settings) -> list[planning.Document]:
        """The job files: jobs.d in order of name, then those of the command line, and the targets of these settings."""
        folder = self._paths.jobs_d
        try:
            names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        except OSError as error:
            raise load.JobsInvalid([load.Problem(folder, None, None, str(error.strerror))]) from None
        files = [os.path.join(folder, name) for name in names if name.endswith(_SUFFIXES) and not name.startswith(".")]
        files += [os.path.abspath(path) for path in self._job_files]
        found = [
            planning.Document(path, f"{definitions.FILE}{path}", load.read_file(path, private=os.geteuid() == 0))
            for path in files
        ]
        if settings.notify.targets:
            path = self._paths.config_file
            found.append(planning.Document(path, f"{definitions.FILE}{path}", notices.document(settings.notify)))
        return found


class Reload:
    def __init__(
        self,
        wanted: Desired,
        planner: planning.Planner,
        changes: bulk.Bulk,
        carry_out: Callable[..., Iterator[None]],
        *,
        settings: Callable[[], config.Settings],
        configure: Callable[[config.Settings], None],
        in_turns: Callable[[Iterator[None]], None],
    ) -> None:
        """`carry_out` answers a client with what was changed; `settings` are those of now, and `configure` takes others."""
        self._desired = wanted
        self._planner = planner
        self._bulk = changes
        self._carry_out = carry_out
        self._settings = settings
        self._configure = configure
        self._in_turns = in_turns
        #: A signal has come, and its reload is under way.
        self._is_wanted = self._is_at_work = False

    def on_request(self, reply: connection.Reply, dry_run: bool) -> Iterator[None]:
        try:
            settings = self._desired.settings()
            plan = yield from self._desired.plan(self._planner, settings)
        except (config.ConfigError, load.JobsInvalid) as error:
            raise vetting.invalid(error.problems, "nothing was reloaded") from None
        notes = [f"{key} holds from the daemon's next start on" for key in settings.waiting(self._settings())]
        yield from self._carry_out(
            plan, reply, "reload", dry_run=dry_run, notes=notes, first=lambda: self._configure(settings)
        )

    def on_signal(self) -> None:
        self._is_wanted = True
        if not self._is_at_work:
            self._in_turns(self._by_signal())

    def _by_signal(self) -> Iterator[None]:
        """Again if another signal came meanwhile: what it was sent for may have been read too early."""
        self._is_at_work = True
        while self._is_wanted:
            self._is_wanted = False
            try:
                settings = self._desired.settings()
                plan = yield from self._desired.plan(self._planner, settings)
                who = definitions.Who(uid=os.geteuid(), user="schedd")
                yield from self._bulk.carry_out(plan, who, "reload", first=lambda: self._configure(settings))  # noqa: B023 (called at once)
            except (config.ConfigError, load.JobsInvalid, connection.RefusedError) as error:
                for line in lines(error):
                    journal.error(f"not reloaded: {line}")
            else:
                journal.info(f"reloaded: {plan.counts}")
        self._is_at_work = False


def lines(error: config.ConfigError | load.JobsInvalid | connection.RefusedError) -> list[str]:
    """What is wrong, one line for each mistake."""
    if isinstance(error, connection.RefusedError):
        return list(error.details) or [error.message]
    return [str(problem) for problem in error.problems]


def last(work: Generator[None, None, planning.Plan]) -> planning.Plan:
    """Drive a plan to its end."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            plan: planning.Plan = end.value
            return plan
