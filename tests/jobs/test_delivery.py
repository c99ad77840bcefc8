"""Messages by mail, webhook and apprise, to real servers on loopback that are slow, refuse, or break."""

import socket
import traceback

import peers
import pytest
import receivers

from lnmt_scheduler.jobs import delivery

MESSAGE = delivery.Message(
    key="job 1", subject="disk\r\nBcc: all@example.net", text="full\x1b[31m\n", html="<b>full</b>",
    files=[("a.csv", "text/csv", b"1,2\n")], facts={"job": "disk"},
)  # fmt: skip


def secret(name):
    return {"password": "open sesame", "token": "t0ken"}[name]


def send(target, message=MESSAGE, read=secret):
    delivery.send(delivery.target(target), message, read)


@pytest.fixture
def hook():
    with receivers.hook() as found:
        yield found


@pytest.fixture
def box():
    with receivers.mailbox() as found:
        yield found


def smtp(box, **more):
    base = {"type": "smtp", "host": "127.0.0.1", "port": box.port, "security": "none", "from": "a@example.net"}
    return {**base, "to": ["b@example.net", "c@example.net"], **more}


def test_a_mail_has_text_html_and_files_and_no_header_that_a_job_made_up(box):
    send(smtp(box))
    (mail,) = box.mails
    assert mail["Subject"] == "disk Bcc: all@example.net"
    assert mail["Bcc"] is None
    assert mail.get_body(("plain",)).get_content().replace("\r\n", "\n") == "full\N{REPLACEMENT CHARACTER}[31m\n"
    assert mail.get_body(("html",)).get_content().strip() == "<b>full</b>"
    assert [part.get_filename() for part in mail.iter_attachments()] == ["a.csv"]
    assert len(box.recipients) == 2
    send(smtp(box))
    assert box.mails[1]["Message-ID"] == mail["Message-ID"]


def test_a_login_takes_its_password_from_a_secret(box):
    send(smtp(box, user="me", password="password"))
    assert box.logins == [("me", "open sesame")]


def test_what_should_be_enciphered_is_not_sent_in_the_clear(box):
    with pytest.raises(delivery.FailedError, match="STARTTLS"):
        send(smtp(box, security="starttls"))
    assert box.mails == []


@pytest.mark.parametrize(
    ("word", "answer", "kind"),
    [
        ("MAIL", "451 later", delivery.TemporaryError),
        ("DATA", "452 no room", delivery.TemporaryError),
        ("RCPT", "450 greylisted", delivery.TemporaryError),
        ("MAIL", "550 not you", delivery.FailedError),
        ("RCPT", "550 nobody", delivery.FailedError),
        ("DATA", "554 spam", delivery.FailedError),
    ],
)
def test_a_mail_server_that_refuses_says_whether_for_good(box, word, answer, kind):
    box.says[word] = answer
    with pytest.raises(delivery.FailedError, match=answer[:3]) as caught:
        send(smtp(box))
    assert type(caught.value) is kind
    assert box.mails == []


def test_a_mail_that_some_have_got_is_sent_and_who_was_refused_is_said(box, capsys):
    box.unknown = {"c@example.net"}
    send(smtp(box))
    assert len(box.mails) == 1
    assert capsys.readouterr().err == "127.0.0.1 took it, but not for c@example.net: 550 who is that\n"


def test_a_password_that_smtp_cannot_carry_is_in_no_error(box):
    with pytest.raises(delivery.FailedError, match="is not ASCII") as caught:
        send(smtp(box, user="me", password="password"), read=lambda _: "s\xe9same")
    assert "same" not in str(caught.value)


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (SystemExit(78), delivery.TemporaryError),
        (PermissionError(13, "denied"), delivery.TemporaryError),
        (KeyError("x"), delivery.FailedError),
    ],
)
def test_whoever_has_other_targets_is_told_whatever_it_was(box, problem, kind):
    def read(_):
        raise problem

    target = delivery.target(smtp(box, user="me", password="password"))
    assert type(delivery.attempt(target, MESSAGE, read)) is kind
    assert delivery.attempt(target, MESSAGE, secret) is None
    assert len(box.mails) == 1


def test_a_webhook_gets_json_with_a_key_that_stays_the_same(hook):
    for _ in range(2):
        send({"type": "webhook", "url": hook.url, "token": "token"})
    (headers, body, _), (again, _, _) = hook.got
    assert body == {"key": "job 1", "subject": "disk Bcc: all@example.net", "text": MESSAGE.text, "job": "disk"}
    assert headers["Authorization"] == "Bearer t0ken"
    assert headers["Idempotency-Key"] == again["Idempotency-Key"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (500, delivery.TemporaryError),
        (503, delivery.TemporaryError),
        (429, delivery.TemporaryError),
        (404, delivery.FailedError),
        (401, delivery.FailedError),
        # Nobody else is to get the token.
        (302, delivery.FailedError),
    ],
)
def test_a_webhook_that_refuses_says_whether_for_good(hook, code, kind):
    hook.codes = [code]
    with pytest.raises(delivery.FailedError, match=str(code)) as caught:
        send({"type": "webhook", "url": hook.url})
    assert type(caught.value) is kind
    assert len(hook.got) == 1


def test_a_server_that_is_away_or_slow_may_be_there_later(hook, monkeypatch):
    with pytest.raises(delivery.TemporaryError, match=r"127\.0\.0\.1"):
        send({"type": "webhook", "url": f"http://127.0.0.1:{peers.free_port()}/"})
    monkeypatch.setattr(delivery, "TIMEOUT", 0.1)
    hook.answers.clear()
    with pytest.raises(delivery.TemporaryError, match="timed out"):
        send({"type": "webhook", "url": hook.url})
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(delivery.TemporaryError, match="timed out"):
        send({**smtp(receivers.Mailbox(port=silent.getsockname()[1]))})


def test_an_address_that_is_a_secret_is_in_no_error(hook):
    hook.codes = [404]
    with pytest.raises(delivery.FailedError) as caught:
        send({"type": "webhook", "url_secret": "token"}, read=lambda _: f"{hook.url}/sesame")
    assert "sesame" not in str(caught.value)
    with pytest.raises(delivery.FailedError) as caught:
        send({"type": "webhook", "url_secret": "token"}, read=lambda _: "sesame://open")
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        # A user and a password are no port, and a token belongs into `token`.
        "https://user:sesame@hooks.example.net/x",
        "http://127.0.0.1:1/a sesame",
        "http://127.0.0.1:1/a\nsesame",
        "http://[sesame/x",
        "http://sesame\N{ACCOUNT OF}/x",
    ],
)
def test_a_secret_that_is_no_address_is_refused_for_good_and_in_no_error(address):
    with pytest.raises(delivery.FailedError, match="the address of the webhook is none") as caught:
        send({"type": "webhook", "url_secret": "token"}, read=lambda _: address)
    assert type(caught.value) is delivery.FailedError
    assert "sesame" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(("code", "kind"), [(0, None), (75, delivery.TemporaryError), (1, delivery.FailedError)])
def test_sendmail_is_told_the_recipients_and_its_code_is_heard(tmp_path, code, kind):
    program = tmp_path / "sendmail"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/args\ncat > {tmp_path}/mail\nexit {code}\n')
    program.chmod(0o755)
    target = {"type": "sendmail", "to": ["root"], "program": str(program)}
    if kind is None:
        send(target)
    else:
        with pytest.raises(delivery.FailedError, match=f"exited with {code}") as caught:
            send(target)
        assert type(caught.value) is kind
    assert (tmp_path / "args").read_text() == "-oi -- root\n"
    assert "Subject: disk Bcc: all@example.net\n" in (tmp_path / "mail").read_text()


def test_a_missing_sendmail_is_named_with_what_to_do():
    with pytest.raises(delivery.FailedError, match="/no/sendmail is not there; install a mail server"):
        send({"type": "sendmail", "to": ["root"], "program": "/no/sendmail"})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what apprise imports
def test_apprise_delivers_where_it_is_installed(hook):
    pytest.importorskip("apprise", reason="apprise, of the extra notify")
    with receivers.hook() as found:
        address = found.url.replace("http://", "json://")
        # apprise's own webhook has no key; what matters is that it arrives.
        delivery.send(delivery.target({"type": "apprise", "url_secret": "token"}), MESSAGE, lambda _: address)
        ((_, body, _),) = found.got
        assert "full" in body["message"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_one_address_of_apprise_has_got_is_sent_and_which_was_refused_is_said(hook, capsys):
    pytest.importorskip("apprise", reason="apprise, of the extra notify")
    target = {"type": "apprise", "url_secret": "token"}
    with receivers.hook() as broken:
        broken.codes = [500]
        both = "\n".join(each.url.replace("http://", "json://") for each in (hook, broken))
        send(target, read=lambda _: both)
        assert len(hook.got) == 1
        assert "address 2 of secret token" in capsys.readouterr().err
        hook.codes = [500]
        with pytest.raises(delivery.TemporaryError, match="any address"):
            send(target, read=lambda _: both)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"type": "pigeon"}, "pigeon"),
        ({"type": "webhook"}, "either `url` or `url_secret`"),
        ({"type": "webhook", "url": "ftp://a"}, "url"),
        ({"type": "smtp", "host": "h", "from": "a@b", "to": []}, "to"),
        ({"type": "smtp", "host": "h", "from": "a@b\nBcc: x", "to": ["c"]}, "from"),
        ({"type": "smtp", "host": "h", "from": "a@b", "to": ["c"], "user": "u"}, "go together"),
        ({"type": "sendmail", "to": ["root"], "tp": 1}, "unknown field `tp`"),
    ],
)
def test_what_is_wrong_with_a_target_is_said(target, words):
    with pytest.raises(ValueError) as caught:
        delivery.target(target)
    assert words in str(caught.value)
