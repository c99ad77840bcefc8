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
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
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

    def on_request(self, reply: connection.Reply, dry_run: bool) -> Iterator[None]:
        try:
            settings = self._desired.settings()
            plan = yield from self._desired.plan(self._planner, settings)
        except (config.ConfigError, load.JobsInvalid) as error:
            raise vetting.invalid(error.problems, "nothing was reloaded") from None
        self._bulk.check_holds(plan)
        notes = [f"{key} holds from the daemon's next start on" for key in settings.waiting(self._settings())]
        if not dry_run:
            self._configure(settings)
        yield from self._carry_out(plan, reply, "reload", dry_run=dry_run, notes=notes)

    def on_signal(self) -> None:
        try:
            settings = self._desired.settings()
            plan = last(self._desired.plan(self._planner, settings))
        except (config.ConfigError, load.JobsInvalid, connection.RefusedError) as error:
            lines = (
                error.details
                if isinstance(error, connection.RefusedError) and error.details
                else str(error).splitlines()
            )
            for line in lines:
                journal.error(f"not reloaded: {line}")
            return
        self._configure(settings)
        self._in_turns(self._silently(plan))

    def _silently(self, plan: planning.Plan) -> Iterator[None]:
        yield from self._bulk.carry_out(plan, definitions.Who(uid=os.geteuid(), user="schedd"), "reload")
        journal.info(f"reloaded: {plan.counts}")


def last(work: Generator[None, None, planning.Plan]) -> planning.Plan:
    """Drive a plan to its end."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            plan: planning.Plan = end.value
            return plan
