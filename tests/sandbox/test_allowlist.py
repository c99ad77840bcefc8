"""A policy's view of files as landlock rules: what is named when something beside it must not be."""

import errno
import os
from pathlib import Path

import pytest

from lnmt_scheduler.sandbox import allowlist, policy


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a/b/c", "a/d", "e"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a/file").touch()
    (tmp_path / "a/link").symlink_to("b")
    return tmp_path


def named(tree: Path, *hidden: str, paths: tuple[str, ...] = (".",)) -> list[str]:
    found = allowlist.without([str(tree / path) for path in paths], {str(tree / path) for path in hidden})
    return sorted(os.path.relpath(path, tree) for path in found)


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [
        ((), ["."]),
        (("no/such",), ["a", "e"]),
        (("e",), ["a"]),
        (("a/b",), ["a/d", "a/file", "e"]),
        (("a/b/c",), ["a/d", "a/file", "e"]),
        (("a/b", "e"), ["a/d", "a/file"]),
        (("a", "a/b"), ["e"]),
        ((".",), []),
    ],
)
def test_what_lies_beside_the_hidden_is_named_and_no_link(tree, hidden, expected):
    assert named(tree, *hidden) == expected


def test_what_is_shown_inside_of_something_hidden_is_shown(tree):
    assert allowlist.without([str(tree)], {str(tree.parent)}) == [str(tree)]


def test_a_path_by_a_link_is_known_by_its_own_name(tree):
    assert named(tree, "a/b/c", paths=("a/link",)) == []
    assert named(tree, paths=("a/link",)) == ["a/b"]


def test_a_directory_too_large_to_be_spelled_out_is_an_error_that_names_it(tree, monkeypatch):
    monkeypatch.setattr(allowlist, "_SPELLED_OUT", 2)
    with pytest.raises(OSError, match=f"{tree}/a has 3 entries") as caught:
        named(tree, "a/b")
    assert caught.value.errno == errno.E2BIG


def test_rules_read_the_host_but_for_private_and_hidden_places_and_write_what_was_given(tree):
    wanted = policy.Policy(
        root="host",
        state_directory="/state",
        writable=(str(tree / "e"),),
        readable=(str(tree / "a"),),
        hidden=(str(tree / "a/b"),),
    )
    rules = allowlist.rules(wanted, "/tmp/own")
    assert rules.readable is not None
    assert {"/usr", "/proc", str(tree / "a/d"), str(tree / "a/file")} <= set(rules.readable)
    assert not {"/", "/tmp", "/var", "/var/tmp", "/dev", str(tree), str(tree / "a"), str(tree / "a/b")} & set(
        rules.readable
    )
    assert set(rules.writable) >= {str(tree / "e"), "/state", "/tmp/own", "/dev/null"}
    assert rules.scope_abstract
    # For the kernels that can tell: sockets are where files are, and so not in what is hidden.
    assert rules.sockets is not None
    assert set(rules.sockets) == {*rules.readable, *rules.writable} - {
        path for path in rules.writable if path.startswith("/dev/")
    }


def test_a_link_out_of_what_may_be_written_is_refused(tree):
    (tree / "e/moved").symlink_to(tree / "a")
    wanted = policy.Policy(root="host", writable=(str(tree / "e"),), readable=(str(tree / "e/moved/file"),))
    with pytest.raises(PermissionError, match="which the job may write to"):
        allowlist.rules(wanted, None)
