"""What people and programs hand in, to checked definitions of jobs; every mistake of it at once.

Called in whichever process takes a definition in: the supervisor (jobs.d, add, import, reload), schedctl (validate), a
program with the Python API. A definition is built from three layers, the job's own keys over its file's defaults over
the site's; a key takes its value whole from the highest layer that has it. What is kept of it is `given`: the keys that
some layer gave, in canonical form, and in any case its `sandbox`. The store holds that, and from_given makes the job of it
again without a check. A `sandbox` that names no profile has the one that the job would have without it.

Types are msgspec's to judge, key by key; what a value may be is in fields.py. Cron lives above this room, so the check
of a schedule is handed in.
"""

import dataclasses
import functools
import graphlib
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from lnmt_scheduler.jobs import checks, documents, model, units
from lnmt_scheduler.jobs.fields import FIELDS, Field
from lnmt_scheduler.sandbox import profiles

FILE_LIMIT = 64 * 1024 * 1024
#: After so many the rest is not looked at: nobody reads on, and each costs time.
PROBLEMS_MAX = 1000
_CYCLES_MAX = 10

#: Error text for the schedule of a job whose other keys are well-formed, or None.
CheckSchedule = Callable[[model.JobConfig], str | None]

JOB, FILE_DEFAULTS, SITE_DEFAULTS = "job", "file defaults", "site defaults"

#: Keys of one job alone.
NO_DEFAULT = {"id", "name", "main_file"}
#: What to run is said by one of these; a layer that says it hides what the layers below say otherwise.
_FUNCTION, _COMMAND = ("module", "function"), ("command",)
#: What only a function can be given: a layer that says a command hides it too.
_ARGUMENTS = ("args", "kwargs")

#: Built-in defaults in canonical form.
DEFAULTS: dict[str, Any] = {
    key: getattr(model.JobConfig(""), key) for key in model.KEYS if key not in {"priority", "umask"}
} | {"priority": model.JobPriority.NORMAL.value, "umask": checks.umask(model.JobConfig("").umask)}
_PRIORITIES = {priority.value: priority for priority in model.JobPriority}


@dataclass(frozen=True, slots=True)
class Problem:
    #: The file, or whatever else the definition came from; empty: it does not matter.
    source: str
    #: Its id, or "#3" for the third job of a file if it has no usable one.
    job: str | None
    key: str | None
    message: str

    def __str__(self) -> str:
        place = [self.source] if self.source else []
        place += [f"job {self.job!r}"] if self.job is not None else []
        place += [f"key {self.key!r}"] if self.key is not None else []
        return ": ".join([*place, self.message])


class JobsInvalid(ValueError):  # noqa: N818 - reads as what it says: the jobs are invalid
    """Nothing of it is taken; `problems` says why, one for each mistake."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Definition:
    """A checked job. Its config shares its lists and maps with `given`: both are to be read only."""

    config: model.JobConfig
    #: Canonical values, JSON-able, of the keys that some layer gave, and always `sandbox`; in the order of model.KEYS.
    given: dict[str, Any]
    #: key -> JOB, FILE_DEFAULTS or SITE_DEFAULTS; what is absent is built in.
    origins: dict[str, str]

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256, in hex, of what the job is: it changes exactly if something that the job does or shows changes.

        Made of the canonical values that differ from the built-in defaults. So it is the same whether a value was
        written out or left to a default, in whichever layer and notation it was given, and in a version with more keys.
        `enabled` is left out: it is runtime state.
        """
        changed = {key: value for key, value in self.given.items() if key != "enabled" and value != DEFAULTS[key]}
        if changed.get("name") == self.config.id:
            del changed["name"]
        return hashlib.sha256(json.dumps(changed, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_file(path: str, *, private: bool = False) -> dict[str, Any]:
    """The document of a job file, JSON or TOML by its suffix. Raises JobsInvalid, with the line where there is one.

    With `private`, a file that others than root and the caller's uid can write is refused.
    """
    try:
        return documents.read(path, limit=FILE_LIMIT, private=private)
    except documents.Unreadable as error:
        raise JobsInvalid([Problem(path, None, None, str(error))]) from None


def parse(
    document: Mapping[str, Any],
    source: str,
    *,
    check_schedule: CheckSchedule,
    site_defaults: Mapping[str, Any] | None = None,
) -> tuple[list[Definition], list[Problem]]:
    """The well-formed jobs of {"jobs": [...], "defaults": {...}}, and everything that is wrong with the others.

    Whether their dependencies exist is for check_graph, which sees all files.
    """
    problems = [
        Problem(source, None, str(key), "unknown key" + checks.hint(str(key), ("jobs", "defaults")))
        for key in itertools.islice(document, PROBLEMS_MAX)
        if key not in {"jobs", "defaults", "$schema"}
    ]
    jobs = document.get("jobs")
    if not isinstance(jobs, list):
        what = "missing" if jobs is None else "must be a list"
        return [], [*problems, Problem(source, None, "jobs", f"{what}; a file without jobs has an empty list")]
    layers, wrong = _layers(document.get("defaults"), source, site_defaults)
    problems += wrong
    definitions, seen = [], dict[str, int]()
    for position, values in enumerate(jobs, 1):
        found = _job(values, position, source, layers, check_schedule, allow_main_file=False)
        if isinstance(found, Definition):
            if (first := seen.setdefault(found.config.id, position)) == position:
                definitions.append(found)
                continue
            found = [
                Problem(source, found.config.id, "id", f"used twice: by job {first} and job {position} of the file")
            ]
        problems += found
        if len(problems) >= PROBLEMS_MAX:
            problems.append(Problem(source, None, None, f"the jobs after number {position} were not looked at"))
            break
    return definitions, problems


def parse_one(
    values: Mapping[str, Any],
    source: str,
    *,
    check_schedule: CheckSchedule,
    site_defaults: Mapping[str, Any] | None = None,
    allow_main_file: bool = False,
) -> Definition:
    """One job from its keys. Raises JobsInvalid."""
    layers, problems = _layers(None, source, site_defaults)
    found = _job(values, None, source, layers, check_schedule, allow_main_file=allow_main_file)
    if isinstance(found, Definition) and not problems:
        return found
    raise JobsInvalid(problems if isinstance(found, Definition) else problems + found)


def parse_defaults(
    values: object, source: str, profile: str = profiles.DEFAULT
) -> tuple[dict[str, Any], list[Problem]]:
    """Canonical values of a map of defaults, and what is wrong with the others; `profile` is that of the layer below."""
    if not isinstance(values, Mapping):
        return {}, [Problem(source, None, "defaults", "must be a map")]
    own = {key: values[key] for key in values if key not in NO_DEFAULT}
    good, problems = _canonical(own, source, None, _known(profile, NO_DEFAULT))
    problems += [
        Problem(source, None, key, "has no default: each job has its own") for key in sorted(NO_DEFAULT & values.keys())
    ]
    return good, [dataclasses.replace(problem, key=f"defaults.{problem.key}") for problem in problems]


def from_given(given: dict[str, Any], origins: dict[str, str]) -> Definition:
    """The definition again, of what the store holds of it. Nothing is checked."""
    values = given.copy()
    if "priority" in values:
        values["priority"] = _PRIORITIES[values["priority"]]
    if "umask" in values:
        values["umask"] = int(values["umask"], 8)
    config = model.JobConfig(**values)
    config.name = config.name or config.id
    return Definition(config, given, origins)


def from_config(config: model.JobConfig) -> dict[str, Any]:
    """The keys of a job made in a program that differ from the built-in default, for parse_one.

    A subclass counts by JobConfig's fields alone. The values are the program's own: parse_one copies them.
    """
    default = model.JobConfig(config.id)
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(model.JobConfig)}
    changed = {key: value for key, value in values.items() if key == "id" or value != getattr(default, key)}
    if isinstance(priority := changed.get("priority"), model.JobPriority):
        changed["priority"] = priority.value
    return changed


def canonical(key: str, value: object) -> Any:
    """The canonical form of one key's value. Raises ValueError."""
    return convert(FIELDS[key], value)


# One job.


def _layers(
    file_defaults: object, source: str, site_defaults: Mapping[str, Any] | None
) -> tuple[list[tuple[str, dict[str, Any]]], list[Problem]]:
    """The layers below a job, the lowest first, with their names."""
    site, site_problems = parse_defaults(site_defaults or {}, SITE_DEFAULTS)
    file, file_problems = parse_defaults({} if file_defaults is None else file_defaults, source, _profile([site]))
    return [(SITE_DEFAULTS, site), (FILE_DEFAULTS, file)], site_problems + file_problems


def _job(
    values: object,
    position: int | None,
    source: str,
    layers: list[tuple[str, dict[str, Any]]],
    check_schedule: CheckSchedule,
    *,
    allow_main_file: bool,
) -> Definition | list[Problem]:
    label = None if position is None else f"#{position}"
    if not isinstance(values, Mapping):
        return [Problem(source, label, None, "must be a map of keys")]
    if isinstance(values.get("id"), str):
        label = values["id"][:80]
    known = _known(_profile([layer for _, layer in layers]), set() if allow_main_file else {"main_file"})
    own, problems = _canonical(values, source, label, known)
    if "id" not in values:
        problems.append(Problem(source, label, "id", "missing"))
    bad = {problem.key.partition(".")[0] for problem in problems if problem.key is not None}
    given, origins = _merge([*layers, (JOB, own)])
    problems += [Problem(source, label, key, message) for key, message in _contradictions(given, origins, bad)]
    definition = from_given({"id": "unknown", **given}, origins)
    if definition.config.schedule is not None and "schedule" not in bad:
        message = check_schedule(definition.config)
        if message is not None:
            problems.append(Problem(source, label, "schedule", message))
    return problems or definition


def _profile(layers: Sequence[dict[str, Any]]) -> str:
    """The profile of a job that has these layers, the highest last, and says nothing itself."""
    given = [layer["sandbox"]["profile"] for layer in layers if "sandbox" in layer]
    return str(given[-1]) if given else profiles.DEFAULT


def _known(profile: str, without: set[str]) -> dict[str, Field]:
    """The keys that a layer may have; `profile` is meant where its `sandbox` names none."""
    check = functools.partial(checks.sandbox, default=profile)
    known = FIELDS | {"sandbox": dataclasses.replace(FIELDS["sandbox"], check=check)}
    return {key: field for key, field in known.items() if key not in without}


def _canonical(
    values: Mapping[str, Any], source: str, label: str | None, known: Mapping[str, Field]
) -> tuple[dict[str, Any], list[Problem]]:
    good: dict[str, Any] = {}
    problems = []
    for key in itertools.islice(values, PROBLEMS_MAX):
        if key not in known:
            near = checks.hint(str(key), known)
            problems.append(Problem(source, label, str(key)[:80], "unknown key" + near))
            continue
        try:
            good[key] = convert(known[key], values[key])
        except PartsError as error:
            problems += [Problem(source, label, f"{key}.{part}", message) for part, message in error.problems]
        except ValueError as error:
            problems.append(Problem(source, label, key, str(error)))
    return good, problems


def _merge(layers: list[tuple[str, dict[str, Any]]]) -> tuple[dict[str, Any], dict[str, str]]:
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, layer in layers:
        for these, others in ((_FUNCTION, _COMMAND), (_COMMAND, (*_FUNCTION, *_ARGUMENTS))):
            if any(layer.get(key) is not None for key in these):
                for key in others:
                    values.pop(key, None)
                    origins.pop(key, None)
        values.update(layer)
        origins.update(dict.fromkeys(layer, name))
    values.setdefault("sandbox", checks.sandbox(None))
    return {key: values[key] for key in model.KEYS if key in values}, origins


def _contradictions(given: dict[str, Any], origins: dict[str, str], bad: set[str]) -> Iterator[tuple[str | None, str]]:
    """What is wrong with keys together; silent about keys that are wrong by themselves."""
    value = DEFAULTS | given
    command, module, function = value["command"], value["module"], value["function"]
    if bad & {"command", "module", "function"}:
        pass
    elif command is not None and (module is not None or function is not None):
        yield "command", "and 'module' with 'function' exclude each other: a job runs one of them"
    elif command is None and module is None and function is None:
        yield None, "says nothing to run: give 'command', or 'module' and 'function'"
    elif command is None and (module is None or function is None):
        yield ("module", "missing beside 'function'") if module is None else ("function", "missing beside 'module'")
    if command is not None:
        for key in _ARGUMENTS:
            if value[key] and origins[key] == JOB:
                yield key, "is for functions; the arguments of a command are part of 'command'"
    if module == "__main__" and value["main_file"] is None:
        yield "module", "'__main__' is the program that registers a job; name a module that can be imported"
    if value["sandbox"]["profile"] == "trusted" and not bad & {"sandbox", "secrets", "grants"}:
        for key in ("secrets", "grants"):
            if value[key]:
                yield key, "takes a box with files of its own, which profile 'trusted' has not; use 'standard'"
    if not bad & {"overlap", "max_instances"}:
        if value["overlap"] == "allow" and value["max_instances"] < 2:
            yield "overlap", "'allow' needs 'max_instances', how many may run at one time: 2 or more"
        elif value["overlap"] != "allow" and value["max_instances"] > 1 and origins["max_instances"] == JOB:
            yield "max_instances", f"is for 'overlap' 'allow', not {value['overlap']!r}: of others one runs at a time"
    if not bad & {"dependencies", "schedule"}:
        yield from _own_run(value)
    both = set(value["success_codes"]) & set(value["warning_codes"])
    if both and not bad & {"success_codes", "warning_codes"}:
        yield "warning_codes", f"{min(both)} is in 'success_codes' too"
    if value["retry_delay"] > value["retry_max_delay"] and not bad & {"retry_delay", "retry_max_delay"}:
        longest = units.format_duration(value["retry_max_delay"])
        yield "retry_delay", f"is more than 'retry_max_delay', {longest}; raise that too"


def _own_run(value: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A job may wait for its own previous run, where there is one to wait for."""
    own = [when for parent, when in model.links(value["dependencies"]) if parent == value.get("id")]
    if own and value["schedule"] is None:
        yield "dependencies", "on the job itself are for the slots of a schedule, and it has none"
    if own == ["failed"]:
        yield "dependencies", "on the job itself are 'ok' or 'any': it could not run a first time"


# One value.


class PartsError(ValueError):
    """Parts of a map are wrong: (key of the part, message)."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{part}: {message}" for part, message in problems))
        self.problems = problems


_MISMATCH = re.compile(r"Expected `(?P<type>.+?)`, got `(?P<got>\w+)`(?: - at `\$(?P<place>.*)`)?")
_KINDS = {
    "str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "null": "null",
    "array": "a list", "object": "a map",
}  # fmt: skip


def convert(field: Field, value: object) -> Any:
    """The canonical form of a value of this field. Raises ValueError."""
    if value is None and field.nullable:
        return None
    try:
        typed = msgspec.convert(value, field.type, strict=True)
    except msgspec.ValidationError as error:
        raise ValueError(_mismatch(field, str(error))) from None
    return field.check(typed if field.parts is None else _convert_parts(field.parts, typed))


def _convert_parts(parts: Mapping[str, Field], values: dict[str, Any]) -> dict[str, Any]:
    good: dict[str, Any] = {}
    problems = []
    for key in itertools.islice(values, PROBLEMS_MAX):
        if key not in parts:
            problems.append((key[:80], "unknown key" + checks.hint(key, parts)))
            continue
        try:
            good[key] = convert(parts[key], values[key])
        except ValueError as error:
            problems.append((key, str(error)))
    if problems:
        raise PartsError(problems)
    return good


def _mismatch(field: Field, message: str) -> str:
    found = _MISMATCH.fullmatch(message)
    if found is None:
        return f"must be {field.expects}"
    got = _KINDS.get(found["got"], found["got"])
    return f"must be {field.expects}, not {got}" + (f" (at {found['place']})" if found["place"] else "")


# All jobs.


def check_graph(dependencies: Mapping[str, Sequence[str]], sources: Mapping[str, str] | None = None) -> list[Problem]:
    """Unknown parents and cycles among jobs: id -> ids that it depends on. `sources` says where a job is defined.

    A job that depends on itself waits for its previous run, and is no cycle.
    """
    sources = sources or {}
    problems = []
    for job, parents in dependencies.items():
        for parent in parents:
            if parent not in dependencies:
                near = checks.hint(parent, dependencies)
                problems.append(Problem(sources.get(job, ""), job, "dependencies", f"unknown job {parent!r}{near}"))
                if len(problems) >= PROBLEMS_MAX:
                    return problems
    others = {job: [parent for parent in parents if parent != job] for job, parents in dependencies.items() if parents}
    for cycle in itertools.islice(_cycles(others), _CYCLES_MAX):
        job = cycle[0]
        problems.append(Problem(sources.get(job, ""), job, "dependencies", f"in a cycle: {' -> '.join(cycle)}"))
    return problems


def check_hooks(
    hooks: Mapping[str, Sequence[tuple[str, str]]],
    after: Mapping[str, Sequence[str]],
    known: Container[str],
    sources: Mapping[str, str] | None = None,
) -> list[Problem]:
    """Unknown jobs in hooks, and jobs that would start one another for ever.

    `hooks` is id -> (key, id of the job to start), `after` is id of a job without a schedule -> ids that it depends on:
    their ends start it.
    """
    sources = sources or {}
    problems = []
    starts: dict[str, list[str]] = {}
    for job, targets in hooks.items():
        for key, target in targets:
            starts.setdefault(job, []).append(target)
            if target not in known:
                near = checks.hint(target, known) if isinstance(known, Mapping) else ""
                problems.append(Problem(sources.get(job, ""), job, key, f"unknown job {target!r}{near}"))
                if len(problems) >= PROBLEMS_MAX:
                    return problems
    if not starts:
        return problems  # what only depends on others is check_graph's
    for job, parents in after.items():
        for parent in parents:
            starts.setdefault(parent, []).append(job)
    # What nothing starts, and what starts nothing, is in no circle.
    for circle in itertools.islice(_cycles(starts), _CYCLES_MAX):
        if any(hooks.get(job) for job in circle):
            text = f"starts itself again and again: {' -> '.join(circle)}"
            problems.append(Problem(sources.get(circle[0], ""), circle[0], None, text))
    return problems


def _cycles(dependencies: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Cycles that share no job, each as a, b, a where a depends on b and the first is the least."""
    graph = {job: parents for job, parents in dependencies.items() if parents}  # no others can be in one
    while True:
        sorter = graphlib.TopologicalSorter(graph)
        try:
            sorter.prepare()
        except graphlib.CycleError as error:
            cycle = list(reversed(error.args[1]))[:-1]
        else:
            return
        start = cycle.index(min(cycle))
        yield [*cycle[start:], *cycle[: start + 1]]
        # The next round looks at the jobs that still wait for one another, without these.
        while ready := sorter.get_ready():
            for job in ready:
                graph.pop(job, None)
            sorter.done(*ready)
        for job in cycle:
            graph.pop(job, None)
