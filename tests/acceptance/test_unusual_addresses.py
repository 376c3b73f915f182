"""An address that breaks the rules but exists: it is taken on request, sent to, found, exported and imported again."""

import pytest
from support.command import Home
from support.servers import ScriptedServer, accept_mail

ADDRESS = "a..b@docomo.ne.jp"


def test_client_with_an_unusual_address_gets_a_mailing(home: Home) -> None:
    refused = home.call("clients", "create", "--email", ADDRESS)
    assert refused.status == 2
    assert refused.err.splitlines()[1] == "hint: pass --accept-unusual if the address exists"
    assert home.call("clients", "create", "--email", ADDRESS, "--accept-unusual").status == 0
    home.call("messages", "create", "--subject", "Hello", "--body", "{{ client.email }}")
    with ScriptedServer([b"220 test ESMTP\r\n", accept_mail()]) as server:
        home.environ |= {
            "SKYCHIMP_MAIL__TRANSPORT": "smtp",
            "SKYCHIMP_SMTP__HOST": "127.0.0.1",
            "SKYCHIMP_SMTP__PORT": str(server.port),
            "SKYCHIMP_SMTP__SECURITY": "none",
        }
        create = ("mailings", "create", "--message", "1", "--start", "now", "--every", "once", "--all-clients")
        assert home.call(*create, "--json").json["run"]["sent"] == 1
    assert b'\nRCPT TO:<"a..b"@docomo.ne.jp>\r\n' in server.received
    assert b'\nTo: "a..b"@docomo.ne.jp\r\n' in server.received
    assert b"\r\na..b@docomo.ne.jp\r\n" in server.received, "a person reads it without quotes"

    for name in (ADDRESS, '"A..b"@docomo.ne.jp'):
        assert home.call("clients", "show", name, "--json").json["email"] == ADDRESS
        assert home.call("why", name, "--json").json["email"].lower() == name.lower()
    assert [row["status"] for row in home.call("mailings", "log", "1", "--json").json] == ["sent"]


@pytest.mark.parametrize("file", ["people.csv", "people.jsonl"])
def test_unusual_addresses_are_exported_and_imported_again(home: Home, file: str) -> None:
    emails = [ADDRESS, '"c..d"@docomo.ne.jp', "e.@docomo.ne.jp", "usual@example.org"]
    for email in emails:
        home.call("clients", "create", "--email", email, "--accept-unusual")
    home.call("clients", "export", file)
    for email in emails:
        assert home.call("clients", "delete", email, "--yes").status == 0

    strict = home.call("clients", "import", file, "--json")
    assert (strict.json["created"], strict.json["bad"]) == (1, 3)
    assert strict.err.count("; pass --accept-unusual if the address exists") == 3
    assert home.call("clients", "import", file, "--accept-unusual", "--json").json["created"] == 3
    assert {client["email"] for client in home.call("clients", "list", "--json").json} == set(emails)


def test_setting_takes_domains_without_a_dot(home: Home) -> None:
    home.call("messages", "create", "--subject", "Hello", "--body", "Hello")
    commands = (
        ("clients", "create", "--email", "root@intranet"),
        ("messages", "test", "1", "--to", "root@intranet"),
        ("register", "--email", "eve@intranet"),
    )
    for command in commands:
        refused = home.call(*command, environ={"SKYCHIMP_PASSWORD": "correct horse battery"})
        assert (refused.status, "mail.allow_local" in refused.err) == (2, True), command
    home.environ |= {"SKYCHIMP_MAIL__ALLOW_LOCAL": "true", "SKYCHIMP_PASSWORD": "correct horse battery"}
    for command in commands:
        assert home.call(*command).status == 0, command
    del home.environ["SKYCHIMP_MAIL__ALLOW_LOCAL"]
    assert home.call("clients", "update", "root@intranet", "--name", "Root").status == 0
    assert home.call("clients", "create", "--email", "root@localhost").status == 0
    assert home.call("login", "--email", "eve@intranet").status == 5, "known, but not verified"
