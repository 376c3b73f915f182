"""Test what the commands say about links for unsubscribing, with and without the settings for them."""

import pytest
from support.command import Home
from support.inbox import body_of, read_outbox

from skychimp.store.database import Store

WEB = {"SKYCHIMP_WEB__URL": "https://mail.example.org"}
INBOUND = {"SKYCHIMP_INBOUND__ADDRESS": "in@example.org"}
WARNING = "warning: recipients cannot unsubscribe: set web.url or inbound.address"
CREATE = (
    "mailings", "create", "--message", "1", "--start", "2030-01-01", "--every", "day", "--all-clients", "--no-send",
)  # fmt: skip


def write_message(home: Home, body: str) -> None:
    assert home.call("messages", "create", "--subject", "Hello", "--body", body).status == 0


def test_link_without_a_setting_is_refused(home: Home) -> None:
    write_message(home, "leave: {{ unsubscribe_url }}")
    for options in ((), ("--transactional",)):
        refused = home.call(*CREATE, *options)
        assert (refused.status, refused.err) == (
            2,
            "error: message 1 uses {{ unsubscribe_url }}, but there is no address for unsubscribing\n"
            "hint: set web.url or inbound.address\n",
        )
    assert home.call("mailings", "list", "--json").json == []
    for environ in (WEB, INBOUND):
        created = home.call(*CREATE, environ=environ)
        assert created.status == 0
        assert "unsubscribe" not in created.err


def test_message_without_a_link_is_warned_about_once_and_not_if_transactional(home: Home) -> None:
    write_message(home, "Hello {{ postal_address }}")
    warned = home.call(*CREATE)
    assert (warned.status, warned.err.splitlines().count(WARNING)) == (0, 1)
    assert "warning: {{ postal_address }} is empty: set mail.postal_address\n" in warned.err

    transactional = home.call(*CREATE, "--transactional", "--json")
    assert WARNING not in transactional.err
    assert transactional.json["transactional"] is True
    assert WARNING not in home.call(*CREATE, environ=WEB).err


def test_mailing_becomes_transactional_and_its_copy_is_too(home: Home) -> None:
    write_message(home, "Hello")
    home.call(*CREATE)
    assert home.call("mailings", "show", "1", "--json").json["transactional"] is False
    assert home.call("mailings", "update", "1", "--transactional", "--json").json["transactional"] is True
    assert home.call("mailings", "update", "1", "--end", "2031-01-01", "--json").json["transactional"] is True
    assert home.call("mailings", "duplicate", "1", "--json").json["transactional"] is True
    assert home.call("mailings", "update", "1", "--no-transactional", "--json").json["transactional"] is False


def test_new_message_with_a_link_is_refused_in_an_update(home: Home) -> None:
    write_message(home, "Hello")
    write_message(home, "{{ unsubscribe_url }}")
    home.call(*CREATE)
    assert home.call("mailings", "update", "1", "--message", "2").status == 2
    assert home.call("mailings", "update", "1", "--message", "2", environ=WEB).status == 0


@pytest.mark.parametrize(
    ("environ", "link"),
    [
        (WEB, "https://mail.example.org/u/sample"),
        (INBOUND, "mailto:in+sample@example.org?subject=unsubscribe"),
        ({}, "https://mail.example.org/u/sample"),
    ],
)
def test_preview_and_test_have_a_sample_link(store: Store, home: Home, environ: dict[str, str], link: str) -> None:
    write_message(home, "leave: {{ unsubscribe_url }}")
    shown = home.call("messages", "preview", "1", environ=environ)
    assert f"leave: {link}\n" in shown.out
    assert "the link for unsubscribing is a sample" in shown.err

    assert home.call("messages", "test", "1", "--to", "me@example.org", environ=environ).status == 0
    (email,) = read_outbox(store.path.with_name("outbox"))
    assert body_of(email) == f"leave: {link}\n"
    assert (email["Auto-Submitted"], email["List-Unsubscribe"]) == ("auto-generated", None)


def test_doctor_warns_of_links_without_https(home: Home) -> None:
    found = home.call("doctor", environ={"SKYCHIMP_WEB__URL": "http://localhost:8025"})
    assert "web.url is http://localhost:8025: mailbox providers accept only https for unsubscribing" in found.out
    assert "accept only https" not in home.call("doctor", environ=WEB).out
