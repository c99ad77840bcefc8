"""What a policy comes to on this host: the step between what is wanted and a box that is built.

Pure functions, used by the launcher for every attempt, by `python -m lnmt_scheduler.sandbox` for a command by hand, and by
the supervisor to show beforehand what a job will get. Nothing here takes a user, makes a cgroup or forks: whoever builds
the box does, and gives back what it took.
"""

from dataclasses import dataclass, replace

from lnmt_scheduler.sandbox import cgroup, controllers, filesystem, namespaces, policy, probe, seccomp


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    #: With its user, and without the layers that are preferred and not there.
    policy: policy.Policy
    #: layer -> what will be enforced.
    enforced: dict[str, str]
    #: For the cgroup of the box.
    limits: controllers.Limits
    #: namespaces.hold() of the box.
    hold: str

    @property
    def needs_cgroup(self) -> bool:
        """Whether it takes one: to set limits, or to end it."""
        return bool(self.limits.names()) or self.hold == namespaces.GROUP


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One layer of a policy, held against the host."""

    layer: str
    #: policy.REQUIRE, PREFER or OFF.
    wanted: str
    #: What it comes to here: policy.ENFORCED, BEST_EFFORT or ABSENT; OFF if it is not wanted.
    state: str
    #: Why it is not had in full, and the mend.
    why: str | None = None
    #: Whether the policy is refused for it.
    refuses: bool = False

    @property
    def degrades(self) -> bool:
        """Whether the policy runs, with less than it asks for."""
        return not self.refuses and self.state in (policy.BEST_EFFORT, policy.ABSENT)


def settle(asked: policy.Policy, host: probe.Host, *, is_root: bool, uid: int | None = None) -> Settled:
    """What will be enforced of a policy; `uid` is the user that a dynamic policy gets from a launcher that is root.

    RefusedError if a required layer is not to be had.
    """
    wanted = applicable(asked, host.mode, is_root=is_root)
    hold = namespaces.hold(host.mode, wanted)
    _refuse_what_cannot_be(wanted, host, hold)
    if uid is not None:
        wanted = replace(wanted, uid=uid, gid=uid, groups=())
    enforced = policy.resolve(wanted, *_offers(wanted, host, is_root=is_root))
    there = {layer: wanted.layers[layer] for layer, state in enforced.items() if state != policy.ABSENT}
    # No swap besides the memory, unless some is given; what the host cannot hold to falls away.
    swap = 0 if wanted.swap is None and wanted.memory is not None else wanted.swap
    limits = controllers.Limits(memory=wanted.memory, swap=swap, pids=wanted.pids, cpu=wanted.cpu)
    if hold == namespaces.GROUP:
        enforced["tree_kill"] = policy.ENFORCED  # whatever the mode
    return Settled(
        policy=replace(wanted, layers=there), enforced=enforced, limits=limits.only(host.cgroups.limits), hold=hold
    )


def applicable(asked: policy.Policy, mode: str, *, is_root: bool) -> policy.Policy:
    """The policy without layers that say nothing here: a limit that is not set, a user where all run as one.

    Where there are no mounts of its own for a box, other namespaces are wished for and no more; see filesystem.SYSTEM for
    the policies that then cannot be had at all.
    """
    layers = {layer: word for layer, word in asked.layers.items() if _applies(layer, asked)}
    if not is_root:
        layers.pop("user", None)
    if "namespaces" in layers and "namespaces" not in asked.insisted and not namespaces.has_mounts(mode):
        layers["namespaces"] = policy.PREFER
    return replace(asked, layers=layers)


def standings(asked: policy.Policy, host: probe.Host, *, is_root: bool) -> list[Standing]:
    """Every layer, in the order of policy.LAYERS."""
    wanted = applicable(asked, host.mode, is_root=is_root)
    offers, missing = _offers(wanted, host, is_root=is_root)
    found = []
    for layer in policy.LAYERS:
        word = wanted.layers.get(layer, policy.OFF)
        state = policy.OFF if word == policy.OFF else offers.get(layer, policy.ABSENT)
        why = missing.get(layer) if state in (policy.BEST_EFFORT, policy.ABSENT) else None
        refuses = word != policy.OFF and policy.refuses(wanted, layer, state)
        found.append(Standing(layer=layer, wanted=word, state=state, why=why, refuses=refuses))
    return found


def program(wanted: policy.Policy, mode: str) -> bytes | None:
    """The compiled seccomp filter of a policy, if it wants one."""
    if wanted.seccomp is None or not wanted.wants("seccomp"):
        return None
    return seccomp.compile(filter_of(wanted), shared_uid=shares_uid(wanted, mode), sealed=seals(wanted, mode))


def filter_of(wanted: policy.Policy) -> seccomp.Filter:
    return "strict" if wanted.seccomp == "strict" else "denylist"


def shares_uid(wanted: policy.Policy, mode: str) -> bool:
    """Whether processes outside the box have its user."""
    return not wanted.dynamic or mode != namespaces.ROOT


def seals(wanted: policy.Policy, mode: str) -> bool:
    """Whether the filter also forbids to change modes, owners, dates and attributes of files, which landlock does not cover.

    That breaks ordinary programs (cp -p, tar, gzip, git), so only a job that insists on what it would break gets it.
    """
    insists = not {"filesystem", "daemon_files"}.isdisjoint(wanted.insisted)
    return insists and wanted.wants("seccomp") and wanted.seccomp is not None and not namespaces.has_mounts(mode)


def _offers(wanted: policy.Policy, host: probe.Host, *, is_root: bool) -> tuple[dict[str, str], dict[str, str]]:
    """What the host offers this policy: (layer -> state, layer -> why not in full).

    Where landlock alone keeps files, whose user they are decides whether their modes can be changed.
    """
    offers, missing = dict(host.layers), dict(host.missing)
    if namespaces.has_mounts(host.mode) or "filesystem" not in offers:
        return offers, missing
    sealed = seals(wanted, host.mode)
    others = is_root and wanted.dynamic
    for layer, apart in (("filesystem", others), ("daemon_files", others or (is_root and bool(wanted.uid)))):
        offers[layer] = policy.ENFORCED if sealed or apart else policy.BEST_EFFORT
        missing[layer] = probe.UNSEALED
    return offers, missing


def _refuse_what_cannot_be(wanted: policy.Policy, host: probe.Host, hold: str) -> None:
    """RefusedError for what no layer says: a view of files that takes mounts, and the host's processes without a cgroup."""
    groups = host.cgroups
    if hold == namespaces.GROUP and groups.kill != cgroup.CGROUP_KILL:
        why = "; ".join(groups.missing) or f"it can be killed by {groups.kill} only"
        raise policy.RefusedError(f"tree_kill: processes: host takes a cgroup of its own with cgroup.kill: {why}")
    if hold == namespaces.GROUP and _sees_a_way_out(wanted, host):
        why = host.missing.get("landlock", "this host gives none")
        raise policy.RefusedError(
            "filesystem: with processes: host, a user that others may have too reaches all of its files by way of"
            f" /proc/PID/root, but for landlock; without `user` it is given one of its own: {why}"
        )
    if wanted.root is None or namespaces.has_mounts(host.mode) or not wanted.wants("filesystem"):
        return
    for what, asked in (
        (f"profile {wanted.profile!r}", wanted.root == filesystem.SYSTEM),
        ("proc: own", wanted.proc == "own" and hold != namespaces.GROUP),
        ("limits.tmp_size", wanted.tmp_size is not None),
    ):
        if asked:
            why = host.missing.get("namespaces", "this host gives none")
            raise policy.RefusedError(f"filesystem: {what} takes namespaces, which landlock cannot replace: {why}")


def _sees_a_way_out(wanted: policy.Policy, host: probe.Host) -> bool:
    """Whether there may be processes of the job's user in sight whose root it can go through (proc(5)): that is the host's.

    In mode a nothing but landlock forbids that. In mode b they are in another user namespace than the job, whose capabilities
    it would take (ptrace(2), "Ptrace access mode checking"); elsewhere landlock is what keeps files.
    """
    if host.mode != namespaces.ROOT or wanted.dynamic or not wanted.wants("filesystem"):
        return False
    return not wanted.wants("landlock") or host.layers.get("landlock", policy.ABSENT) == policy.ABSENT


def _applies(layer: str, wanted: policy.Policy) -> bool:
    """A limit that is not set is no layer."""
    return layer not in ("memory", "cpu", "pids") or getattr(wanted, layer) is not None
