"""`skychimp messages variants`: from the command to the email, what is refused, and what is said."""

from pathlib import Path

from support.command import Home
from support.inbox import body_of, read_outbox

from skychimp.store.database import Store

NEWS = ["--subject", "News", "--body", "# News", "--markdown"]


def write(home: Home, name: str, text: str) -> str:
    Path(home.folder / name).write_text(text)
    return name


def test_variant_is_written_listed_shown_sent_and_deleted(store: Store, home: Home) -> None:
    home.call("clients", "create", "--email", "ann@example.org", "--field", "lang=ru-RU")
    home.call("clients", "create", "--email", "bob@example.org")
    mistyped = home.call("messages", "create", *NEWS, "--variant-by", "lnag")
    assert mistyped.err == "warning: no client has the field lnag\nhint: did you mean lang?\n"
    updated = home.call("messages", "update", "1", "--variant-by", "lang", "--json")
    assert (updated.json["variant_by"], updated.err) == ("lang", "")

    russian = write(home, "news.ru.md", "---\nsubject: Новости\n---\n# Новости\n")
    made = home.call("messages", "variants", "set", "1", "ru", "--body-file", russian, "--json")
    assert (made.json["value"], made.json["format"], made.json["clients"], made.err) == ("ru", "markdown", 1, "")
    german = home.call("messages", "variants", "set", "1", "de", "--subject", "Neues", "--body", "Neues")
    assert (german.status, german.err) == (0, "no client has this value yet\n")
    assert home.call("messages", "variants", "set", "1", "DE", "--subject", "Neu").status == 0
    listed = home.call("messages", "variants", "list", "1").out.splitlines()
    assert [line.split("\t")[:4] for line in listed] == [
        ["DE", "Neu", "markdown", "0"],
        ["ru", "Новости", "markdown", "1"],
    ]
    shown = home.call("messages", "show", "1", "--json").json
    assert (shown["variants"][1], shown["fallback_clients"]) == (
        {"value": "ru", "subject": "Новости", "clients": 1},
        1,
    )
    preview = home.call("messages", "preview", "1", "--client", "ann@example.org", "--json").json
    assert preview["subject"] == "Новости"
    assert home.call("messages", "preview", "1", "--variant", "de", "--json").json["subject"] == "Neu"
    assert home.call("messages", "test", "1", "--to", "zoe@example.org", "--client", "ann@example.org").status == 0
    assert home.call("messages", "test", "1", "--to", "zoe@example.org", "--variant", "de").status == 0
    sent = {str(email["Subject"]): body_of(email) for email in read_outbox(store.path.with_name("outbox"))}
    link = "https://mail.example.org/u/sample"
    assert sent == {
        "Новости": f"Новости\n\n-- \nОтписаться: {link}\n",
        "Neu": f"Neues\n\n-- \nUnsubscribe: {link}\n",
    }

    assert home.call("messages", "variants", "delete", "1", "de").status == 2
    assert home.call("messages", "variants", "delete", "1", "de", "--yes", "--json").json["subject"] == "Neu"
    stopped = home.call("messages", "update", "1", "--no-variant-by", "--json").json
    assert stopped["variant_by"] is None
    assert "variants" not in home.call("messages", "show", "1", "--json").json


def test_wrong_use_of_variants_is_refused(home: Home) -> None:
    home.call("messages", "create", *NEWS)
    for arguments, status, error in [
        (["set", "1", "ru", *NEWS], 2, "error: message 1 has no field that chooses its variants\n"
         'hint: run "skychimp messages update 1 --variant-by lang"\n'),
        (["set", "7", "ru", *NEWS], 4, 'error: message 7 not found\nhint: run "skychimp messages list"\n'),
        (["list", "7"], 4, 'error: message 7 not found\nhint: run "skychimp messages list"\n'),
        (["delete", "1", "ru", "--yes"], 4, 'error: message 1 has no variant "ru"\n'
         'hint: run "skychimp messages variants list 1"\n'),
        (["set", "1", "ru"], 2, "error: message 1 has no field that chooses its variants\n"
         'hint: run "skychimp messages update 1 --variant-by lang"\n'),
        (["lst"], 2, 'error: unknown command "lst"\nhint: did you mean list?\n'),
    ]:  # fmt: skip
        done = home.call("messages", "variants", *arguments)
        assert (done.status, done.err) == (status, error)
    home.call("messages", "update", "1", "--variant-by", "lang")
    without_body = home.call("messages", "variants", "set", "1", "ru", "--subject", "s")
    assert (without_body.status, without_body.err) == (
        2, "error: the message has no body\nhint: use --body, --body-file or --html-file\n",
    )  # fmt: skip
    both = home.call("messages", "update", "1", "--variant-by", "lang", "--no-variant-by")
    assert (both.status, "cannot be combined" in both.err) == (2, True)


def test_mailing_that_is_open_is_named(home: Home) -> None:
    home.call("clients", "create", "--email", "ann@example.org", "--field", "lang=ru")
    home.call("messages", "create", *NEWS, "--variant-by", "lang")
    home.call("mailings", "create", "--message", "1", "--start", "now", "--every", "day", "--all-clients", "--no-send")
    set_ = ["messages", "variants", "set", "1", "ru", "--subject", "Новости"]
    assert home.call(*set_, "--body", "Новости").err == ""
    away = {"SKYCHIMP_MAIL__TRANSPORT": "smtp", "SKYCHIMP_SMTP__PORT": "1", "SKYCHIMP_RUN__PATIENCE": "0s"}
    assert home.call("run", environ=away).status == 75
    changed = home.call(*set_, "--body", "Новое")
    assert changed.err == (
        "mailing 1 still sends the old content; to change what was not sent yet,"
        ' run "skychimp messages update 1 --also-open"\n'
    )
    updated = home.call("messages", "update", "1", "--also-open")
    assert (updated.status, updated.err) == (0, "")


def test_help_has_the_commands(home: Home) -> None:
    shown = home.call("messages", "variants", "--help").out
    assert all(name in shown for name in ("set", "list", "delete"))
    assert home.call("help", "schemas", "messages", "variants", "set", "--json").json["type"] == "object"


def test_one_variant_that_is_named_twice_is_deleted_once(home: Home) -> None:
    home.call("messages", "create", *NEWS, "--variant-by", "lang")
    for value in ("ru", "de"):
        home.call("messages", "variants", "set", "1", value, "--subject", "s", "--body", "b")
    delete = ("messages", "variants", "delete", "1", "ru", "RU", "ru", "--yes", "--json")
    refused = home.call(*delete, "fr", "es")
    assert (refused.status, refused.error["message"]) == (
        4, 'message 1 has no variant "fr", message 1 has no variant "es"',
    )  # fmt: skip
    deleted = home.call(*delete)
    assert (deleted.status, deleted.json["value"], deleted.err) == (0, "ru", "")
    assert [each["value"] for each in home.call("messages", "variants", "list", "1", "--json").json] == ["de"]


def test_preview_names_the_layout_of_the_variant(home: Home) -> None:
    home.call("clients", "create", "--email", "ann@example.org", "--field", "lang=ru")
    home.call("messages", "create", *NEWS, "--variant-by", "lang")
    home.call("messages", "variants", "set", "1", "ru", "--subject", "s", "--body", "*b*", "--layout", "none")
    for options in ([], ["--client", "ann@example.org"], ["--variant", "RU"]):
        shown = home.call("messages", "preview", "1", *options, width=80)
        assert ("the HTML part has the layout default" in shown.err) == (not options)
        assert ("<p><em>b</em></p>" in shown.out) == bool(options)


def test_refused_value_is_named_in_russian(home: Home) -> None:
    home.call("messages", "create", *NEWS, "--variant-by", "lang")
    refused = home.call("--lang", "ru", "messages", "variants", "set", "1", "a\tb")
    assert refused.err.startswith("ошибка: значение 'a\\tb': недопустимо")
