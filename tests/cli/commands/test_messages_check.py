"""`skychimp messages check`: what a message has, from the command to its exit status."""

from pathlib import Path
from typing import Any

import pytest
from support.command import Home

from skychimp.store.database import Store

WELL = """# News

Dear {{ client.name or "reader" }},

read [our news](https://example.org/news).

[Unsubscribe]({{ unsubscribe_url }})

{{ postal_address }}
"""
WELL_HTML = """<h1>News</h1>
<p>Read <a href="https://example.org/news">our news</a>, {{ client.name or "reader" }}.</p>
<p><a href="{{ unsubscribe_url }}">Unsubscribe</a>, {{ postal_address }}</p>
"""
SETTINGS = {
    "SKYCHIMP_WEB__URL": "https://mail.example.org",
    "SKYCHIMP_MAIL__POSTAL_ADDRESS": "Skychimp Ltd, 1 Main Street, Riga",
}


def create(home: Home, body: str, *options: str, subject: str = "News") -> None:
    home.call("messages", "create", "--subject", subject, "--body-file", "-", *options, stdin=body)


def create_html(home: Home, html: str, subject: str = "News") -> None:
    home.call("messages", "create", "--subject", subject, "--html-file", "-", stdin=html)


def findings(home: Home, *options: str, **environ: str) -> list[dict[str, Any]]:
    checked = home.call("messages", "check", "1", "--json", *options, environ=SETTINGS | environ)
    found = checked.json
    has_problem = any(finding["level"] == "problem" for finding in found["findings"])
    assert (found["ok"], checked.status) == (not has_problem, int(has_problem))
    return list(found["findings"])


def test_message_without_flaws(home: Home) -> None:
    create(home, WELL, "--markdown")
    checked = home.call("messages", "check", "1", environ=SETTINGS)
    assert (checked.status, checked.out, checked.err) == (0, "", "")
    shown = home.call("messages", "check", "1", environ=SETTINGS, width=80).err
    assert shown == "no problems found\nnext: skychimp messages test 1 --to ada@skychimp.test\n"


def test_problems_are_shown_with_their_place_and_remedy(home: Home) -> None:
    create_html(home, f"{WELL_HTML}<a href='https://'>more</a>\n")
    checked = home.call("messages", "check", "1", environ=SETTINGS)
    assert checked.status == 1
    remedy = "add the host after //, also for clients without a value"
    assert checked.out.splitlines()[0] == f'problem\tlink\tHTML line 4\t"https://" has no host\t{remedy}'
    shown = home.call("messages", "check", "1", environ=SETTINGS, width=120)
    assert "has no host" in shown.out


def test_each_kind_of_flaw_is_found(home: Home) -> None:
    html = (
        "<p>Hi\n<a href='javascript:x'>a</a> <a href=http://example.org>b</a>\n<img src=https://x.org/a.png> *|FNAME|*"
    )
    create_html(home, html, "{{ client.name }}")
    found = {(each["about"], each["level"], each["where"]) for each in findings(home)}
    assert found >= {
        ("subject", "problem", "subject, for a client without values"),
        ("link", "warning", "HTML line 2"),
        ("picture", "warning", "HTML line 3"),
        ("merge tag", "problem", "HTML line 3"),
        ("unsubscribing", "warning", "HTML and text"),
    }
    assert all(each["remedy"] and each["found"] and not each["ok"] for each in findings(home))


def test_fields_are_those_of_the_owner(home: Home) -> None:
    home.call("clients", "create", "--email", "a@example.org", "--field", "site=example.org")
    create_html(home, f"{WELL_HTML}<a href='https://{{{{ client.fields.site | default('') }}}}/'>site</a>\n")
    assert [each["where"] for each in findings(home) if each["found"] == '"https:///" has no host'] == [
        "HTML line 4, for a client without values"
    ]


def test_unsubscribing_needs_settings(home: Home) -> None:
    create(home, "{{ unsubscribe_url }} {{ postal_address }}")
    assert [each["level"] for each in findings(home)] == []
    found = findings(home, SKYCHIMP_WEB__URL="")
    assert [(each["about"], each["level"]) for each in found] == [("unsubscribing", "problem")]
    found = findings(home, SKYCHIMP_MAIL__POSTAL_ADDRESS="")
    assert [each["found"] for each in found] == ["{{ postal_address }} is empty"]


def test_transactional_message_needs_no_unsubscribe_link(home: Home) -> None:
    create(home, "Your receipt")
    mailing = ("mailings", "create", "--message", "1", "--all-clients", "--start", "2030-01-01", "--every", "once")
    assert home.call(*mailing, "--no-send", "--transactional").status == 0
    assert findings(home) == []
    assert home.call(*mailing, "--no-send", environ=SETTINGS).status == 0
    assert {each["about"] for each in findings(home)} == {"unsubscribing"}


def test_large_message(home: Home) -> None:
    create(home, f"{WELL}\n{{{{ client.comment }}}}\n{'word ' * 13_000}", "--markdown")
    (finding,) = findings(home)
    assert (finding["about"], finding["level"]) == ("size", "warning")
    create_larger = home.call("messages", "update", "1", "--body-file", "-", stdin=f"{WELL}\n{'word ' * 21_000}")
    assert create_larger.status == 0
    (finding,) = findings(home)
    assert (finding["about"], finding["level"]) == ("size", "problem")


def test_spamassassin_is_asked_for_the_email(home: Home, tmp_path: Path) -> None:
    program = tmp_path / "spamassassin"
    status = "X-Spam-Status: Yes, score=6 required=5 tests=A,B"
    program.write_text(f"#!/bin/sh\nprintf '{status}\\n'\ntee {tmp_path}/email\n")
    program.chmod(0o755)
    create(home, WELL, "--markdown")
    (finding,) = findings(home, PATH=f"{tmp_path}:/usr/bin:/bin")
    assert finding["found"] == "SpamAssassin gives 6 points, and takes 5 for spam: A, B"
    email = (tmp_path / "email").read_text()
    assert 'From: "Skychimp" <news@skychimp.test>' in email
    assert "List-Unsubscribe: <https://mail.example.org/u/sample>" in email


def test_online_links_of_private_networks_are_not_asked_for(home: Home) -> None:
    create(home, f"{WELL}\n[a](https://localhost/x)\n".replace("https://example.org/news", "#"), "--markdown")
    asked = [each["found"] for each in findings(home, "--online") if "asked" in each["found"]]
    assert asked == ['"https://localhost/x" was not asked for: its host is in a private network']


def test_message_of_somebody_else_is_not_found(home: Home, store: Store) -> None:
    missing = home.call("messages", "check", "7", "--json")
    assert (missing.status, missing.error["code"]) == (4, "not_found")


@pytest.mark.slow
def test_installed_command(home: Home) -> None:
    create(home, WELL, "--markdown")
    assert home.run("messages", "check", "1", environ=SETTINGS).status == 0
