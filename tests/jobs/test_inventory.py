"""What an inventory may say, and that a mistake in it is one line with its place."""

import json

import pytest

from lnmt_scheduler.jobs import inventory


def fails(capsys, call) -> str:
    """The one line that it ends with."""
    with pytest.raises(SystemExit) as ended:
        call()
    assert ended.value.code == 78
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_a_toml_file_with_defaults_is_what_its_json_is(tmp_path):
    toml = tmp_path / "devices.toml"
    toml.write_text(
        '[defaults]\ntcp = [22]\n[[devices]]\nname = "r1"\naddress = "192.0.2.1"\nhttp = ["http://192.0.2.1/"]\n'
        '[[devices]]\nname = "r2"\naddress = "2001:db8::2"\ntcp = []\nping = {count = 9}\nsnmp = {version = "3", user = "u"}\n'
    )
    same = tmp_path / "devices.json"
    devices = [
        {"name": "r1", "address": "192.0.2.1", "http": [{"url": "http://192.0.2.1/"}]},
        {
            "name": "r2",
            "address": "2001:db8::2",
            "tcp": [],
            "ping": {"count": 9},
            "snmp": {"version": "3", "user": "u"},
        },
    ]
    same.write_text(json.dumps({"defaults": {"tcp": [22]}, "devices": devices}))
    first, second = found = inventory.load(str(toml))
    assert found == inventory.load(str(same))
    assert (first.tcp, second.tcp, first.ping) == ([22], [], True)
    assert isinstance(second.ping, inventory.Ping)
    assert second.ping.count == 9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "has no list `devices`"),
        ('{"devices": []}', "has 0 devices"),
        ('{"devices": [], "device": 1}', "unknown key 'device'"),
        ('{"devices": [{"name": "r1"}]}', "device 1 'r1': Object missing required field `address`"),
        ('{"devices": [{"name": "r1", "address": "a", "pnig": true}]}', "unknown field `pnig`"),
        ('{"devices": [{"name": "r1", "address": "a", "tcp": [0]}]}', "`$.tcp[0]`"),
        ('{"devices": [{"name": "r1", "address": "-f"}]}', "`$.address`"),
        ('{"devices": [{"name": "r1", "address": "a", "http": ["ftp://a/"]}]}', "`$.url`"),
        ('{"devices": [{"name": "r1", "address": "a", "snmp": {"version": "1"}}]}', "`$.snmp.version`"),
        ('{"devices": [{"name": "r1", "address": "a"}, {"name": "r1", "address": "b"}]}', "two devices are named 'r1'"),
        ('{"devices": [{"name": "r1", "address": "a", "tcp": [22, 22]}]}', "the same port twice"),
        ('{"devices": [{"name": "r1", "address": "a", "http": ["http://a/", "http://a/"]}]}', "the same address twice"),
        ('{"devices": [7]}', "device 1"),
        ('{"devices": ' + "[" * 100_000, "cannot be used"),
        ("{", "cannot be used"),
        ('{"devices": [' + " " * (4 << 20) + "]}", "more than 4194304 bytes"),
        (json.dumps({"devices": [{"name": f"r{n}", "address": "a"} for n in range(2001)]}), "has 2001 devices"),
    ],
    ids=range(17),
)
def test_a_mistake_is_one_line_with_its_place(tmp_path, capsys, text, words):
    path = tmp_path / "devices.json"
    path.write_text(text)
    assert words in fails(capsys, lambda: inventory.load(str(path)))


def test_a_file_that_is_not_there_is_one_line(capsys):
    assert "/nowhere/x.toml' cannot be read: No such file" in fails(capsys, lambda: inventory.load("/nowhere/x.toml"))


def test_a_secret_is_a_files_first_line_and_is_never_said(tmp_path, capsys):
    path = tmp_path / "secret"
    path.write_text("hush\nmore\n")
    assert inventory.secret(str(path)) == "hush"
    path.write_bytes(b"hush\xff")
    assert "hush" not in fails(capsys, lambda: inventory.secret(str(path)))
    path.write_bytes(b"x" * 5000)
    fails(capsys, lambda: inventory.secret(str(path)))
    path.write_text("\n")
    fails(capsys, lambda: inventory.secret(str(path)))


def test_a_name_without_a_path_is_one_of_the_jobs_secrets(tmp_path, capsys, monkeypatch):
    (tmp_path / "community").write_text("hush\n")
    assert "has no secret 'community'" in fails(capsys, lambda: inventory.secret("community"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert inventory.secret("community") == "hush"
