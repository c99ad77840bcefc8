"""The hostile catalogue: what is tried inside a box, what must come of it, and which layers stand in its way.

Data only. Most cases are one operation, tried by a fork of hostile.py; one box for each profile and mode tries them all. A
`whole` case is a run of its own, and its outcome is how the launcher says it ended. A case that other tests try names the
test.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

BOTH = ("standard", "untrusted")
STANDARD, UNTRUSTED = ("standard",), ("untrusted",)
BOXED, ANY_MODE = ("a", "b"), ("a", "b", "c", "d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    number: str
    #: Name of the attempt in hostile.py; also the case's own name.
    name: str
    tried: str
    #: Outcomes that are right, separated by |.
    expect: str = ""
    #: In profile untrusted, where they differ.
    strict: str = ""
    #: Without namespaces (modes c and d), where they differ.
    scoped: str = ""
    #: What blocks it, or ends it: any one of them would do, but for those that stand alone.
    layers: tuple[str, ...] = ()
    profiles: tuple[str, ...] = BOTH
    modes: tuple[str, ...] = ANY_MODE
    #: Layers without which the case means nothing on a host.
    needs: tuple[str, ...] = ()
    #: The oldest ABI of landlock that has what blocks it; 0: it takes none.
    landlock_abi: int = 0
    whole: bool = False
    #: Fields of the policy that are set for it.
    policy: Mapping[str, object] = field(default_factory=dict)
    #: Seconds until the launcher ends it.
    timeout: float = 20
    #: path::test that tries it, from the tests' folder.
    see: str = ""

    def applies(self, profile: str, mode: str) -> bool:
        """Whether it is tried there. What `untrusted` takes is refused where there are no namespaces (test_scoped.py)."""
        return profile in self.profiles and mode in self.modes and (mode in BOXED or profile != "untrusted")

    def right(self, profile: str, mode: str) -> set[str]:
        special = self.strict if profile == "untrusted" else self.scoped if mode not in BOXED else ""
        return set((special or self.expect).split("|"))


def _case(number: str, name: str, tried: str, expect: str, *layers: str, **more: object) -> Case:
    return Case(number=number, name=name, tried=tried, expect=expect, layers=layers, **more)  # type: ignore[arg-type]  # as Case has them


def _elsewhere(number: str, tried: str, see: str) -> Case:
    return Case(number=number, name=see.partition("::")[2], tried=tried, see=see)


_KILL = "daemon/test_kill.py::test_"
_REPORTS = "daemon/test_hostile_reports.py::test_"
_CLIENTS = "daemon/test_hostile_clients.py::test_"
_SCRATCH = "sandbox/test_scratch.py::test_"
_BESIDE = "escape/test_beside.py::test_"
_MIB = 1 << 20
#: It does not exist there, or it may not be touched.
_HIDDEN = "ENOENT|EACCES|EPERM"
_READ_ONLY = "EROFS|EACCES|EPERM"

CASES = (
    # Processes and time
    _case("1", "fork_bomb", "fork for ever", "EAGAIN", "pids", needs=("pids",)),
    _case("2", "thread_bomb", "start threads for ever", "EAGAIN", "pids", needs=("pids",)),
    _elsewhere("3", "change parents all the time", f"{_KILL}a_storm_of_forks_that_change_their_parents_ends"),
    _case(
        "4, 6, 7", "orphans", "daemonise, leave the session, adopt, and end", "exit 0, killed", "tree_kill", whole=True
    ),
    _elsewhere("5", "keep stdout open", f"{_KILL}a_grandchild_that_keeps_stdout_open_does_not_delay_the_end"),
    _case(
        "8, 9",
        "stop_and_ignore",
        "ignore all signals and stop",
        "SIGKILL, timeout",
        "tree_kill",
        whole=True,
        timeout=0.7,
    ),
    _elsewhere(
        "10", "take longer than the grace", f"{_KILL}a_term_handler_that_takes_longer_than_the_grace_is_cut_short"
    ),
    _case(
        "11", "exit_in_the_grace", "exit 0 when told to end", "exit 0, timeout", "tree_kill", whole=True, timeout=0.7
    ),
    _case(
        "12",
        "spin_on",
        "ignore the signal for processor time",
        "SIGKILL",
        "rlimits",
        whole=True,
        policy={"cpu_time": 1},
    ),
    _case(
        "13, 85",
        "spin",
        "take all processors for itself",
        "exit 0",
        "cpu",
        needs=("cpu",),
        whole=True,
        policy={"cpu": 0.1},
    ),
    _elsewhere("14", "leave zombies", f"{_KILL}a_flood_of_zombies_and_orphans_is_no_burden"),
    _case("15", "kill_all", "kill(-1, 9)", "SIGKILL|SIGKILL, killed", "tree_kill", modes=("a", "b", "c"), whole=True),
    _case("6b", "survivor", "leave session and parent, quickly", "exit 0, killed", "tree_kill", whole=True),
    _case("16", "kill_init", "signal its init", "EPERM|no effect", "tree_kill", "user", modes=("a", "b", "c")),
    _elsewhere(
        "17", "be born to a dead parent", "sandbox/test_box.py::test_the_death_of_the_launcher_is_the_end_of_the_box"
    ),
    _elsewhere(
        "18",
        "outlive the launcher",
        f"{_KILL}when_the_launcher_is_killed_everything_dies_with_it_and_the_next_daemon_records_it_as_lost",
    ),
    _elsewhere(
        "19",
        "take the supervisor away from its runs",
        "daemon/test_adoption.py::test_a_hundred_runs_outlive_three_supervisors_whole",
    ),
    _case("20", "pretend_to_be_killed", "exit with 137", "exit 137", whole=True),
    _elsewhere(
        "21",
        "end by every signal",
        "supervisor/test_launcher.py::test_every_signal_that_can_end_a_process_is_told_by_its_number",
    ),
    _case(
        "22",
        "end_the_main_thread_only",
        "end the main thread, not the process",
        "SIGTERM, timeout",
        "tree_kill",
        whole=True,
        timeout=0.7,
    ),
    _case("23", "descriptors_after_exec", "lose limits by exec", "256", "rlimits"),
    # By a fault in the launcher: a file system that hangs in the kernel (NFS, FUSE) cannot be made here.
    _elsewhere(
        "24",
        "wait for ever in the kernel",
        "supervisor/test_unkillable.py::test_it_keeps_its_user_and_its_cgroup_while_others_run",
    ),
    _case("25", "be_traced", "hide behind a tracer", "EPERM", "seccomp"),
    _elsewhere(
        "26",
        "have its pid reused around the kill",
        f"{_BESIDE}the_launcher_signals_no_process_by_its_number",
    ),
    # Memory and files
    _case(
        "27",
        "balloon",
        "take all memory",
        "SIGKILL, oom",
        "memory",
        needs=("memory",),
        whole=True,
        policy={"memory": 96 * _MIB},
    ),
    _case(
        "28",
        "balloon_in_a_child",
        "take all memory in a child",
        # Version 2 kills all of the group: some may still be on their way out when the main process is gone.
        "exit 0, oom|SIGKILL, oom|SIGKILL, oom, killed",
        "memory",
        needs=("memory",),
        whole=True,
        policy={"memory": 96 * _MIB},
    ),
    _case(
        "30",
        "lock_memory",
        "lock all memory",
        "refused|SIGKILL, oom",
        "rlimits",
        "memory",
        whole=True,
        policy={"memory": 96 * _MIB},
    ),
    _case("29", "reserve_8_gib", "map 8 GiB and touch none", "allowed"),
    _case("31", "fill_shared_memory", "fill /dev/shm", "ENOSPC", "filesystem", profiles=UNTRUSTED),
    _elsewhere("32", "use swap", "sandbox/test_cgroup.py::test_memory_without_a_word_on_swap_means_no_swap"),
    _case("33", "fill_tmp", "fill /tmp", "ENOSPC", "filesystem", profiles=UNTRUSTED),
    _case("34", "fill_inodes", "fill /tmp with empty files", "ENOSPC", "filesystem", profiles=UNTRUSTED),
    _case("35", "huge_file", "write one huge file", "SIGXFSZ", "rlimits"),
    _case("35b", "signals_at_start", "go on because a signal is ignored", "defaults", "signals"),
    _case("36", "sparse_file", "make a file of 1 TiB without blocks", "EFBIG", "rlimits"),
    _case("37", "exhaust_descriptors", "open files for ever", "EMFILE", "rlimits"),
    _case("38, 39, 40, 44", "leave_a_mess", "leave what is hard to remove in temporary files", "exit 0", whole=True),
    _elsewhere(
        "38b, 39b, 40b, 44b",
        "leave what is hard to remove in its state directory",
        f"{_BESIDE}a_purge_takes_a_mess_away_and_holds_up_nobody",
    ),
    _elsewhere("38c", "nest a hundred thousand deep", f"{_SCRATCH}a_tree_of_any_depth_is_removed_without_recursion"),
    _elsewhere("39c", "choose names of any bytes", f"{_SCRATCH}names_of_any_bytes_and_any_length_are_removed"),
    _elsewhere(
        "40c", "close directories to their owner", f"{_SCRATCH}directories_that_are_closed_to_their_owner_are_removed"
    ),
    _elsewhere(
        "41",
        "point links at files of others",
        "daemon/test_accounts.py::test_links_in_a_state_directory_give_nothing_away",
    ),
    _elsewhere(
        "41b",
        "point a directory that the next run is given elsewhere",
        "sandbox/test_filesystem.py::test_a_link_out_of_what_may_be_written_is_refused",
    ),
    _elsewhere(
        "42",
        "swap a directory for a link while it is handed over",
        f"{_BESIDE}a_directory_that_turns_into_a_link_leads_nobody_outside",
    ),
    _case("43", "link_outside", "hard link to a file outside", "EXDEV|EPERM|ENOENT", "filesystem"),
    _elsewhere(
        "45",
        "put a link in the place of its log",
        "supervisor/test_output.py::test_a_link_in_the_place_of_the_output_is_not_followed",
    ),
    _case("46", "set_uid_file", "chmod to setuid", "EPERM", "seccomp"),
    _case("46b", "set_uid_at_birth", "create a file as setuid", "EPERM", "seccomp"),
    _case("46c", "set_gid_directory", "make a setgid directory", "EPERM", "seccomp"),
    _case("47", "dump_core", "dump core", "none", "core_dumps"),
    _case("47b", "wake_core_handler", "lower the limit that keeps core handlers away", "limit 1", "seccomp"),
    _case(
        "48", "write_outside", "write a file that all may write", _READ_ONLY, "filesystem", "landlock", strict=_HIDDEN
    ),
    _case("48b", "create_outside", "create where all may", _READ_ONLY, "filesystem", "landlock", strict=_HIDDEN),
    _case("48c", "remount_writable", "remount / writable", "EPERM", "seccomp", "no_new_privs"),
    _case("48d", "own_file", "write in its state directory", "written"),
    _case("49", "shared_memory_of_the_host", "use System V memory of others", "ENOENT|EPERM", "namespaces"),
    _case("49b", "message_queue_of_the_host", "use a message queue of others", "ENOENT|EPERM", "namespaces", "seccomp"),
    _case("50", "temporary_file_of_the_host", "read another's file in /tmp", "ENOENT", "filesystem", scoped="EACCES"),
    _case("50b", "shared_file_of_the_host", "read another's file in /dev/shm", "ENOENT", "filesystem", scoped="EACCES"),
    _elsewhere(
        "50c",
        "leave a key for the next run",
        "sandbox/test_capabilities.py::test_the_keys_of_the_parents_session_are_out_of_reach",
    ),
    # Input, output, terminals, sockets
    _elsewhere("51", "flood the output", "daemon/test_flood.py::test_a_flood_of_output_is_felt_by_nobody"),
    _case("51b, 52", "flood", "write 4 MiB without the end of a line", "exit 0", whole=True),
    _elsewhere("53", "speak to a terminal", f"{_REPORTS}words_meant_for_a_terminal_reach_it_harmless"),
    _elsewhere(
        "54",
        "end within a character",
        "supervisor/test_cli_runs.py::test_half_a_character_at_the_end_is_shown_as_its_bytes",
    ),
    _elsewhere("54b", "write any bytes", "daemon/test_runs.py::test_output_of_any_bytes_is_kept_as_it_is"),
    _case("55", "close_streams", "close its streams at once", "exit 0", whole=True),
    _case("56", "never_block", "make its streams non-blocking, and write", "exit 0", whole=True),
    _elsewhere(
        "57",
        "write while the disk is full",
        "supervisor/test_output.py::test_on_a_full_disk_output_is_lost_and_said_to_be_and_the_job_goes_on",
    ),
    _case("59", "reopen_streams", "reach more by the names of its descriptors", "own", "descriptors"),
    _case("58", "use_every_descriptor", "use descriptors that it was not given", "none", "descriptors"),
    _elsewhere("60", "forge reports", f"{_REPORTS}nonsense_is_noted_on_its_own_run_and_the_job_goes_on"),
    _elsewhere("61", "send garbage as a report", f"{_REPORTS}no_bytes_on_a_report_pipe_harm_anything_else"),
    _elsewhere("62", "return something huge", f"{_REPORTS}a_result_over_its_limit_is_not_taken"),
    _elsewhere("63", "return a result and crash", f"{_BESIDE}a_result_before_a_crash_does_not_count"),
    _case("64", "daemon_socket", "connect to the control socket", _HIDDEN, "daemon_files", modes=BOXED),
    _elsewhere(
        "64b",
        "speak to the daemon where it can connect",
        "escape/test_daemon_unreachable.py::test_schedctl_inside_a_job_is_refused_by_name",
    ),
    _elsewhere("65", "send descriptors to the daemon", f"{_CLIENTS}descriptors_that_clients_send_are_not_kept"),
    _case(
        "66",
        "abstract_socket",
        "connect to an abstract socket",
        "EPERM",
        "landlock",
        strict="EPERM|ECONNREFUSED",
        # Older landlocks, for which mode d is, have no word on them.
        modes=("a", "b", "c"),
        needs=("landlock",),
        landlock_abi=6,
    ),
    _case("67", "inject_terminal_input", "type into a terminal (TIOCSTI)", "EPERM", "seccomp"),
    _case("67b", "inject_with_a_high_word", "TIOCSTI with bits that the kernel does not look at", "EPERM", "seccomp"),
    _case("67c", "console_paste", "paste into a console (TIOCLINUX)", "EPERM", "seccomp"),
    _case("68", "open_terminal", "open /dev/tty", "ENOENT|ENXIO", "filesystem", scoped="EACCES|ENXIO"),
    # Secrets and sight
    _case("69", "environment_of_init", "read init's environment", _HIDDEN, "tree_kill"),
    _case("69b", "memory_of_init", "read init's memory", _HIDDEN, "tree_kill"),
    _case("69c", "descriptors_of_init", "read init's descriptors", _HIDDEN, "tree_kill"),
    _case("69d", "root_of_init", "look through init's root", _HIDDEN, "tree_kill"),
    _case("70, 74", "own_environment", "find the daemon's secrets in the environment", "clean", "environment"),
    _elsewhere(
        "70b",
        "find them in the memory of the launcher's fork",
        "daemon/test_runs.py::test_what_the_daemon_was_started_with_is_not_in_the_memory_of_a_function",
    ),
    _case("71", "shadow", "read /etc/shadow", "EACCES|ENOENT", "user"),
    _case("71b", "daemon_database", "read the store", _HIDDEN, "daemon_files"),
    _case("71c", "other_state", "read another job's state", _HIDDEN, "daemon_files"),
    _case("71d", "host_secret", "read a file of the host", "ENOENT", "filesystem", profiles=UNTRUSTED),
    _case("71e", "home_directories", "list home directories", "ENOENT", "filesystem", profiles=UNTRUSTED),
    _case("72", "list_processes", "list the host's processes", "own", "tree_kill", modes=BOXED),
    _case(
        "73", "kernel_symbols", "read kernel addresses", "nothing|EACCES|EPERM|ENOENT", "filesystem", strict="ENOENT"
    ),
    _case("73b", "kernel_memory", "read kernel memory", "nothing|EACCES|EPERM|ENOENT", "filesystem", strict="ENOENT"),
    _case("73c", "kernel_log", "read the kernel's log", "EPERM", "seccomp"),
    _case("73d", "sys_tree", "list /sys", "ENOENT", "filesystem", profiles=UNTRUSTED),
    # Privilege and the kernel's surface
    _case(
        "75",
        "run_set_uid_program",
        "run a setuid program",
        "own uid|refused|ENOENT|EACCES|EPERM",
        "no_new_privs",
        "filesystem",
    ),
    _case("76", "become_root", "setresuid(0, 0, 0)", "EPERM|EINVAL", "no_new_privs"),
    _case("76b", "become_group_root", "setresgid(0, 0, 0)", "EPERM|EINVAL", "no_new_privs"),
    _case("76c", "choose_groups", "setgroups", "EPERM", "no_new_privs"),
    _case("77", "raise_capabilities", "capset", "EPERM", "no_new_privs"),
    _case("77b", "raise_ambient", "make a capability ambient", "EPERM", "no_new_privs"),
    _case("78", "unshare_user", "unshare(NEWUSER)", "EPERM", "seccomp"),
    _case("78b", "clone_user", "clone(NEWUSER)", "EPERM", "seccomp"),
    _case("78c", "clone3_user", "clone3(NEWUSER)", "ENOSYS", "seccomp"),
    _case("78d", "join_namespace", "setns", "EPERM", "seccomp", strict="SIGSYS"),
    _case("79", "mount_tmpfs", "mount", "EPERM", "no_new_privs", "seccomp"),
    _case("79b", "unmount_proc", "umount", "EPERM", "no_new_privs", "seccomp"),
    _case("79c", "change_root", "chroot", "EPERM", "no_new_privs", "seccomp"),
    _case("79d", "pivot", "pivot_root", "EPERM", "no_new_privs", "seccomp"),
    _case("79e", "new_mount_calls", "mount by the new calls", "ENOSYS", "no_new_privs", "seccomp"),
    _case("80", "open_by_handle", "open a file by its handle", "EPERM", "no_new_privs", "seccomp", strict="SIGSYS"),
    _case("81", "trace_init", "ptrace init", "EPERM", "seccomp", "tree_kill"),
    _case("81b", "read_memory_of_init", "process_vm_readv of init", "EPERM", "seccomp", "tree_kill"),
    _case("81c", "compare_with_init", "kcmp with init", "EPERM", "seccomp", "tree_kill"),
    _case("82", "take_descriptor_of_init", "pidfd_getfd of init", "EPERM", "seccomp", "tree_kill"),
    _case("83", "limit_init", "prlimit of init", "EPERM", "seccomp", "user"),
    _case("84", "be_nicer_than_all", "nice -20", "EACCES|EPERM", "no_new_privs"),
    _case("84b", "real_time", "SCHED_FIFO", "EPERM", "no_new_privs"),
    _case("84c", "real_time_disk", "real-time disk access", "EPERM", "no_new_privs"),
    _case("84d", "pin_init", "sched_setaffinity of init", "EPERM", "seccomp", "user"),
    _case("84e", "slow_init", "setpriority of init", "EPERM", "seccomp", "user"),
    _case("84f", "slow_all_of_the_user", "setpriority of all of its user", "EPERM|own uid", "seccomp", "user"),
    _case("86", "set_clock", "set the clock", "EPERM", "seccomp"),
    _case("87", "reboot", "reboot", "EPERM", "no_new_privs", "seccomp"),
    _case("87b", "load_kernel", "kexec", "EPERM", "no_new_privs", "seccomp", strict="SIGSYS"),
    _case("87c", "load_module", "load a module", "EPERM", "no_new_privs", "seccomp", strict="SIGSYS"),
    _case("87d", "load_bpf", "bpf", "EPERM", "seccomp", strict="SIGSYS"),
    _case("87e", "watch_kernel", "perf_event_open", "EPERM", "seccomp"),
    _case("87f", "swap_on", "swapon", "EPERM", "no_new_privs", "seccomp"),
    _case("87g", "account", "acct", "EPERM", "no_new_privs", "seccomp"),
    _case("87h", "ports", "iopl", "EPERM", "no_new_privs", "seccomp"),
    _case("88", "core_pattern", "write core_pattern", _READ_ONLY, "filesystem", strict="ENOENT"),
    _case("88b", "magic_keys", "open sysrq-trigger for writing", f"{_READ_ONLY}|ENOENT", "filesystem", strict="ENOENT"),
    _case(
        "89", "own_cgroup", "move itself to another cgroup", "EROFS|EACCES|EACCES,EROFS", "filesystem", strict="ENOENT"
    ),
    _case("89b", "mount_cgroup", "mount the cgroup tree", "EPERM", "no_new_privs", "seccomp"),
    _case("90", "make_disk", "make the node of a disk", "EPERM", "no_new_privs", "seccomp"),
    _case("90b", "make_character_device", "make the node of /dev/mem", "EPERM", "no_new_privs", "seccomp"),
    _case("90c", "physical_memory", "open /dev/mem", "ENOENT", "filesystem"),
    _case("90d", "virtual_machine", "open /dev/kvm", "ENOENT", "filesystem", scoped="EACCES|ENOENT"),
    _case("91", "rings", "io_uring", "ENOSYS", "seccomp"),
    _case("92", "user_faults", "userfaultfd", "EPERM", "seccomp"),
    _case("92b", "secret_memory", "memfd_secret", "ENOSYS", "seccomp"),
    _case("93", "add_key", "add a key", "EPERM", "seccomp"),
    _case("93b", "user_keyring", "reach the user's keyring", "EPERM", "seccomp"),
    _case("94", "strange_sockets", "sockets of vsock, alg, packet, audit, bluetooth", "EAFNOSUPPORT", "seccomp"),
    _case("94b", "raw_socket", "a raw socket", "EPERM", "no_new_privs", strict="EPERM|EAFNOSUPPORT"),
    _case("95", "calls_of_32_bits", "int 0x80", "SIGSYS", "seccomp"),
    _case("95b", "calls_of_x32", "system calls of x32", "ENOSYS", "seccomp"),
    _case("96", "no_randomness", "switch off address randomness", "EPERM", "seccomp"),
    _case(
        "97", "reach_the_host", "connect by TCP", "ENETUNREACH|EAFNOSUPPORT", "network", "seccomp", profiles=UNTRUSTED
    ),
    _case(
        "97b", "send_a_datagram", "send by UDP", "ENETUNREACH|EAFNOSUPPORT", "network", "seccomp", profiles=UNTRUSTED
    ),
    _case("98", "exhaust_watches", "take all instances of inotify", "EMFILE", "user"),
    _elsewhere("98b", "take them from others", f"{_BESIDE}what_a_box_takes_of_its_uid_is_missed_by_no_other_box"),
    _elsewhere(
        "98c",
        "use up the descriptors on their way of its account",
        f"{_BESIDE}a_job_cannot_use_up_the_descriptors_on_their_way",
    ),
    _case("99", "flood_signals", "queue signals for ever", "EAGAIN", "user"),
    _case("100", "stack_layers", "stack landlock and filters for ever", "E2BIG, ENOMEM|none, ENOMEM"),
    _case("101", "name_of_the_daemon", "take the daemon's name, and bytes that are none", "harmless"),
    _elsewhere("102", "hide its use in orphans", "sandbox/test_cgroup.py::test_what_orphans_used_is_counted"),
    # Operations
    _elsewhere(
        "103",
        "come by the thousand",
        "daemon/test_soak.py::test_nothing_is_left_of_many_boxes_and_the_launcher_does_not_grow",
    ),
    _elsewhere(
        "104", "run after the cgroup of the daemon has gone", f"{_BESIDE}a_cgroup_that_cannot_be_made_is_a_refusal"
    ),
    _elsewhere(
        "105",
        "run where a layer is missing",
        "daemon/test_masked.py::test_who_requires_what_is_masked_is_refused_with_layer_reason_and_mend",
    ),
    _elsewhere(
        "105b",
        "run where a layer is missing that it only prefers",
        "daemon/test_masked.py::test_who_prefers_it_runs_and_the_row_says_what_became_of_it",
    ),
)
BY_NAME = {case.name: case for case in CASES}
