"""Files that are no job files: each is refused with its line, none harms the reader."""

import os

import pytest

from lnmt_scheduler.jobs import documents, load


@pytest.fixture
def write(tmp_path):
    def write(data, name="jobs.json"):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return str(path)

    return write


def refusal(path, **kwargs):
    with pytest.raises(documents.Unreadable) as caught:
        documents.read(path, limit=1 << 20, **kwargs)
    return str(caught.value)


def test_json_and_toml_say_the_same(write):
    as_json = documents.read(write('{"jobs": [{"id": "x", "timeout": 1.5}]}'), limit=100)
    as_toml = documents.read(write('[[jobs]]\nid = "x"\ntimeout = 1.5\n', "jobs.toml"), limit=100)
    assert as_json == as_toml == {"jobs": [{"id": "x", "timeout": 1.5}]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: is not valid JSON"),
        ('{"a": 1,\n "b": }', "line 2: is not valid JSON: Expecting value (column 7)"),
        ('{"a": [1, 2', "line 1: is not valid JSON"), ("[]", "a map at the top, not a list"), ("3", "not a value"),
        ('{"a": {\n"b": 1, "c": 2,\n"b": 3}}', "line 3: the key 'b' appears twice"),
        ('{"a": 1, "x": [{"a": 1}, {"a": 1}],\n\n"\\u0061": 3}', "line 3: the key 'a' appears twice"),
        ('{"a": "\\"b\\": {",\n "b": 1, "c": "b", "d": ["b", "b"],\n "b": 2}', "line 3: the key 'b' appears twice"),
        ('{"a": "NaN",\n"b": NaN}', "line 2: NaN is no number"), ('{"a": -Infinity}', "line 1: -Infinity is no number"),
        ('{"a": "1e999",\n"b": [2e3,\n1e999]}', "line 3: the number 1e999 is too large"),
        ('{"a":\n' + "9" * 5000 + "}", "line 2: a number has too many digits"),
        ('{"a":\n' + "[" * 100_000, "line 2: is nested too deeply"),
        ('{"a":\n' + '{"a":' * 100_000 + "1" + "}" * 100_001, "line 2: is nested too deeply"),
        (b"\xef\xbb\xbf{}", "byte order mark"), ("{}".encode("utf-16"), "UTF-16"), ("{}".encode("utf-16-le"), "UTF-16"),
        (b'{"a":\n\n"\xff"}', "line 3: is not UTF-8 (byte 0xff)"), ('{"a": "\n"}', "line 1: is not valid JSON"),
    ],
)  # fmt: skip
def test_json_that_is_wrong_is_refused_with_its_line(write, text, words):
    assert words in refusal(write(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = \nb = 2", "line 1"), ("a = 1\na = 2\n", "line 2"), ("a = " + "[" * 100_000, "nested too deeply"),
        (b"\xef\xbb\xbfa = 1", "byte order mark"), ("a = " + "9" * 5000, "not valid TOML"),
    ],
)  # fmt: skip
def test_toml_that_is_wrong_is_refused(write, text, words):
    assert words in refusal(write(text, "jobs.toml"))


def test_a_file_over_the_limit_is_refused(write):
    path = write('{"a": 1}')
    assert documents.read(path, limit=8) == {"a": 1}
    with pytest.raises(documents.Unreadable, match="more than 7 bytes"):
        documents.read(path, limit=7)


def test_a_name_that_says_no_format_is_refused_unless_the_format_is_known(write):
    path = write("a = 1", "settings.conf")
    assert ".json or .toml" in refusal(path)
    assert documents.read(path, limit=100, kind="toml") == {"a": 1}


def test_what_cannot_be_read_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "directory.json").mkdir()
    assert "not a regular file" in refusal(str(tmp_path / "pipe.json"))
    assert "cannot be read: Is a directory" in refusal(str(tmp_path / "directory.json"))
    assert "cannot be read: No such file" in refusal(str(tmp_path / "absent.json"))


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_private_file_that_others_can_write_is_refused(write, mode):
    path = write("{}")
    os.chmod(path, 0o644)
    assert documents.read(path, limit=100, private=True) == {}
    os.chmod(path, mode)
    assert "chmod go-w" in refusal(path, private=True)
    assert documents.read(path, limit=100) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away, which needs root")
def test_a_private_file_of_another_account_is_refused(write):
    path = write("{}")
    os.chown(path, 12345, 0)
    assert "belongs to uid 12345" in refusal(path, private=True)


def test_a_job_file_that_is_wrong_is_named(write):
    path = write("{")
    with pytest.raises(load.JobsInvalid) as caught:
        load.read_file(path)
    assert str(caught.value).startswith(f"{path}: line 1: is not valid JSON")
