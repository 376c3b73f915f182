"""Test that everything that is sent is signed, if `dkim` is set, and what happens without a usable key."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dkim as dkimpy
import pytest
from support.daemons import Daemon, clean_environ, write_config
from support.dkim import ED25519, RSA, published
from support.sending import create_mailing, make_settings, send, start_run, wait_for_exit
from support.servers import GREETING, ScriptedServer, accept_mail

from skychimp.config.settings import Settings
from skychimp.delivery.composing import dkim
from skychimp.delivery.sending import signing
from skychimp.delivery.sending.single_email import send_single_email
from skychimp.errors import ConfigError, RelayRefused
from skychimp.permissions import Actor
from skychimp.store.database import Store
from skychimp.transport.interfaces import OutgoingEmail

DATA = b"From: ada@example.org\r\nMessage-ID: <1@example.org>\r\n\r\nhello\r\n"
EMAIL = OutgoingEmail("ada@example.org", "bob@example.net", DATA)


@pytest.fixture
def key_files(tmp_path: Path) -> dict[str, Any]:
    """Return the settings for two keys, with their files."""
    paths = []
    for key in (RSA, ED25519):
        path = tmp_path / f"{key.selector}.pem"
        path.write_bytes(dkim.to_pem(key.private))
        path.chmod(0o600)
        paths.append(path)
    return {
        "dkim__domain": "example.org",
        "dkim__selector": [RSA.selector, ED25519.selector],
        "dkim__key_file": [str(path) for path in paths],
    }


@pytest.fixture
def receiver() -> Iterator[ScriptedServer]:
    """Run a server that accepts everything."""
    with ScriptedServer([GREETING, accept_mail()]) as server:
        yield server


def verify(email: bytes) -> list[bool]:
    count = len(re.findall(rb"(?m)^DKIM-Signature:", email))
    return [dkimpy.DKIM(email).verify(idx=index, dnsfunc=published) for index in range(count)]


def test_run_signs_every_email(store: Store, ada: Actor, key_files: dict[str, Any], receiver: ScriptedServer) -> None:
    addresses = [f"client{number}@example.org" for number in range(30)]
    create_mailing(store, ada, addresses, body="Dear {{ client.name }},\n\n. .. \n\nbye  \n\n")
    stats = send(store, make_settings(receiver.port, **key_files))
    receiver.wait()
    assert (stats.sent, len(receiver.emails)) == (30, 30)
    unstuffed = [re.sub(rb"(?m)^\.", b"", email) for email in receiver.emails]
    assert [verify(email) for email in unstuffed] == [[True, True]] * 30


def test_size_that_is_announced_is_that_of_the_email(
    store: Store, ada: Actor, key_files: dict[str, Any], receiver: ScriptedServer
) -> None:
    create_mailing(store, ada, ["bob@example.org"])
    send(store, make_settings(receiver.port, **key_files))
    receiver.wait()
    (size,) = re.findall(rb"SIZE=(\d+)", receiver.received)
    assert int(size) == len(receiver.emails[0])


def test_outbox_has_signed_emails(store: Store, ada: Actor, key_files: dict[str, Any]) -> None:
    create_mailing(store, ada, ["bob@example.org"])
    settings = make_settings(1, **key_files)
    mail = settings.mail.model_copy(update={"transport": "outbox"})
    send(store, settings.model_copy(update={"mail": mail}))
    (email,) = store.path.with_name("outbox").glob("new/*")
    assert verify(email.read_bytes().replace(b"\n", b"\r\n")) == [True, True]


@pytest.mark.parametrize("kinds", [[0], [1], [0, 1]])
def test_single_email_is_signed_with_each_key(
    store: Store, key_files: dict[str, Any], receiver: ScriptedServer, kinds: list[int]
) -> None:
    chosen = {name: [key_files[name][kind] for kind in kinds] for name in ("dkim__selector", "dkim__key_file")}
    send_single_email(make_settings(receiver.port, **key_files | chosen), store, EMAIL)
    receiver.wait()
    assert verify(receiver.emails[0]) == [True] * len(kinds)


def test_nothing_is_signed_without_the_settings(store: Store, receiver: ScriptedServer) -> None:
    send_single_email(make_settings(receiver.port), store, EMAIL)
    receiver.wait()
    assert receiver.emails == [DATA]


def test_resend_differs_in_the_signature_alone(store: Store, ada: Actor, key_files: dict[str, Any]) -> None:
    replies = iter([b"", None])
    accept = accept_mail(lambda command, _: next(replies) if command == "." else None)
    with ScriptedServer([GREETING, accept]) as server:
        create_mailing(store, ada, ["bob@example.org"])
        settings = make_settings(server.port, **key_files, delivery__unknown_after="0s")
        assert send(store, settings).unknown == 1
        assert send(store, settings).sent == 1
        server.wait()
        first, again = server.emails
    assert verify(first) == verify(again) == [True, True]
    unsigned = [email[email.index(b"From:") :] for email in (first, again)]
    assert unsigned[0] == unsigned[1]


# Keys that cannot be used


def broken(settings: Settings, **changes: Any) -> Settings:
    return settings.model_copy(update={"dkim": settings.dkim.model_copy(update=changes)})


INCOMPLETE: dict[str, tuple[dict[str, Any], str]] = {
    "no domain": ({"domain": None}, "dkim.domain is not set"),
    "no selector": ({"selector": None}, "dkim.selector is not set"),
    "no file": ({"key_file": None}, "dkim.key_file is not set"),
    "one selector": ({"selector": ("s1",)}, "dkim.selector and dkim.key_file differ in length"),
}


@pytest.mark.parametrize("name", INCOMPLETE)
def test_incomplete_settings_are_named(key_files: dict[str, Any], name: str) -> None:
    changes, message = INCOMPLETE[name]
    with pytest.raises(ConfigError, match=message):
        signing.load_keys(broken(make_settings(1, **key_files), **changes).dkim)


FILES: dict[str, tuple[bytes | None, int, str]] = {
    "missing": (None, 0o600, "cannot read .*: No such file"),
    "no key": (b"secret", 0o600, "cannot use .*: it is not a private key"),
    "too large": (b"-" * 16_001, 0o600, "cannot read .*"),
    "others can write": (dkim.to_pem(ED25519.private), 0o666, "cannot use .*"),
}


@pytest.mark.parametrize("name", FILES)
def test_unusable_file_is_named(tmp_path: Path, name: str) -> None:
    content, mode, message = FILES[name]
    path = tmp_path / "s1.pem"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    settings = make_settings(1, dkim__domain="example.org", dkim__selector="s1", dkim__key_file=str(path))
    with pytest.raises(ConfigError, match=message) as caught:
        signing.load_keys(settings.dkim)
    assert str(path) in caught.value.message


def test_run_without_its_key_sends_nothing(
    store: Store, ada: Actor, key_files: dict[str, Any], receiver: ScriptedServer
) -> None:
    """An email without the signature that was asked for would count against the sender."""
    create_mailing(store, ada, ["bob@example.org"])
    Path(key_files["dkim__key_file"][1]).unlink()
    settings = make_settings(receiver.port, **key_files)
    with pytest.raises(ConfigError, match="cannot read"):
        send(store, settings)
    with pytest.raises(RelayRefused, match="cannot read"):
        send_single_email(settings, store, EMAIL)
    assert receiver.conversations == []


def test_daemon_without_its_key_pauses_until_the_key_is_there(
    store: Store, ada: Actor, tmp_path: Path, receiver: ScriptedServer
) -> None:
    """It must not end because of a file that is wrong for a while."""
    create_mailing(store, ada, ["bob@example.org"])
    config, key_file = write_config(tmp_path, receiver.port), tmp_path / "e1.pem"
    with config.open("a") as file:
        file.write('[dkim]\ndomain = "example.org"\nselector = "e1"\nkey_file = "e1.pem"\n')
    with Daemon(store, config, clean_environ()) as daemon:
        daemon.wait_for(lambda: any("is paused: cannot read" in str(name) for name in daemon.event_names))
        key_file.write_bytes(dkim.to_pem(ED25519.private))
        key_file.chmod(0o600)
        create_mailing(store, ada, ["eve@example.org"])  # an idle daemon looks again once the store has changed
        daemon.wait_for(lambda: len(receiver.emails) == 2)
        assert daemon.stop() == 0
    assert [verify(email) for email in receiver.emails] == [[True], [True]]


def test_environment_names_several_keys(
    store: Store, ada: Actor, key_files: dict[str, Any], receiver: ScriptedServer
) -> None:
    create_mailing(store, ada, ["bob@example.org"])
    listed = {name: value if isinstance(value, str) else json.dumps(value) for name, value in key_files.items()}
    status, _, err = wait_for_exit(start_run(store, receiver.port, **listed))
    assert status == 0, err
    receiver.wait()
    assert verify(receiver.emails[0]) == [True, True]
