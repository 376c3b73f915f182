"""Test the `mailings` commands as a user gives them: topics, and who gets a mailing and who does not."""

from collections import Counter
from typing import Any

import pytest
from support.command import Home
from support.queue_steps import NOW, create_client, open_mailing, write

from skychimp.models import EVERYBODY, Every, SuppressionSource
from skychimp.permissions import Actor
from skychimp.services.mailings import mailings
from skychimp.services.mailings.audience_input import Audience
from skychimp.services.mailings.schedules import ScheduleInput
from skychimp.store.clients import suppressions
from skychimp.store.clients.audience import AudienceCount
from skychimp.store.clients.suppressions import Holds, NewSuppression
from skychimp.store.database import Store


@pytest.fixture
def message(home: Home) -> Home:
    """Ada's command line, with message 1."""
    assert home.call("messages", "create", "--subject", "Hello", "--body", "Dear {{ client.name }}").status == 0
    return home


def create(home: Home, *options: str, start: str = "2030-01-01 09:00", every: str = "day") -> int:
    """Create a mailing to all clients, unless the options select others, and return its id."""
    selects = any(option in ("--tag", "--client") for option in options)
    audience = () if selects else ("--all-clients",)
    created = home.call(
        "mailings", "create", "--message", "1", "--start", start, "--every", every, *audience, *options, "--json"
    )
    assert created.status == 0, created.err
    mailing_id: int = created.json["id"]
    return mailing_id


def test_topic_is_set_shown_copied_and_removed(message: Home) -> None:
    mailing = str(create(message, "--topic", " News "))
    assert message.call("mailings", "show", mailing, "--json").json["topic"] == "News"
    assert "topic\tNews\n" in message.call("mailings", "show", mailing).out
    assert message.call("mailings", "duplicate", mailing, "--json").json["topic"] == "News"

    other = str(create(message))
    assert message.call("mailings", "show", other, "--json").json["topic"] is None
    assert message.call("mailings", "update", other, "--topic", "NEWS", "--json").json["topic"] == "News"
    assert message.call("mailings", "update", other, "--end", "2031-01-01", "--json").json["topic"] == "News"
    assert message.call("mailings", "update", other, "--no-topic", "--json").json["topic"] is None


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--topic", ""), "the topic is empty"),
        (("--topic", "a\nb"), "contains a control character or a line break"),
        (("--topic", "x" * 101), "longer than 100 characters"),
        (("--topic", "news", "--no-topic"), "--topic and --no-topic cannot be combined"),
    ],
)
def test_invalid_topic_is_refused(message: Home, options: tuple[str, ...], problem: str) -> None:
    mailing = str(create(message, "--topic", "Offers"))

    refused = message.call("mailings", "update", mailing, *options)

    assert (refused.status, refused.out) == (2, "")
    assert problem in refused.err
    assert message.call("mailings", "show", mailing, "--json").json["topic"] == "Offers"


def test_update_tells_who_gets_it_now_and_what_waits(store: Store, ada: Actor, home: Home) -> None:
    open_mailing(store, ada, "ann", "ben", topic="news")

    assert home.call("mailings", "update", "1", "--no-topic").err == (
        'mailing 1 goes to 2 clients\n2 emails waiting; sent by the daemon or "skychimp run"\n'
    )


# Who gets it

BAD = "bad address since 2026-03-02 09:00:00+00:00: 550 5.1.1 gone"
PEOPLE: dict[str, str | None] = {
    "plain": None,
    "vip": None,
    "both": None,
    "left": "suppressed since 2026-03-02: unsubscribed",
    "topic": "suppressed for topic News since 2026-03-02: unsubscribed",
    "offers": None,
    "everywhere": "suppressed everywhere since 2026-03-02: complaint",
    "domain": "suppressed with @left.example since 2026-03-02: a text",
    "bad": BAD,
    "badleft": "suppressed since 2026-03-02: unsubscribed",
    "remembered": BAD,
    "bobs": None,
}
"""Ada's clients, and why they do not get her news."""

AUDIENCES = {
    "all clients": ((), PEOPLE.keys()),
    "a tag": (("--tag", "vip"), PEOPLE.keys() - {"plain"}),
    "two tags and named clients": (("--tag", "VIP", "--tag", "gold", "--client", "1", "--client", "3"), PEOPLE.keys()),
    "named clients": (("--client", "1", "--client", "4"), {"plain", "left"}),
}


def address(name: str) -> str:
    return f"{name}@left.example" if name == "domain" else f"{name}@example.org"


@pytest.fixture
def people(store: Store, ada: Actor, bob: Actor, message: Home) -> Home:
    """Ada's command line, with message 1 and the clients in PEOPLE."""
    for name in PEOPLE:
        is_bad = {"bad_at": NOW, "bad_reason": "550 5.1.1 gone"} if name.startswith("bad") else {}
        tags = ("vip", "gold") if name == "both" else () if name == "plain" else ("vip",)
        create_client(store, ada, name, tags=tags, email=address(name), address_key=address(name), **is_bad)
    create_client(store, bob, "plain")
    suppress(store, ada.user_id, address("left"), "unsubscribed")
    suppress(store, ada.user_id, address("topic"), "unsubscribed", topic="News")
    suppress(store, ada.user_id, address("offers"), "unsubscribed", topic="Offers")
    suppress(store, EVERYBODY, address("everywhere"), "complaint")
    suppress(store, ada.user_id, "@left.example", "a text")
    suppress(store, ada.user_id, address("remembered"), suppressions.BOUNCE, note="550 5.1.1 gone")
    suppress(store, ada.user_id, address("badleft"), suppressions.BOUNCE)
    suppress(store, ada.user_id, address("badleft"), "unsubscribed")
    suppress(store, bob.user_id, address("bobs"), "unsubscribed")
    return message


def suppress(store: Store, owner_id: int, key: str, reason: str, *, topic: str = "", note: str = "") -> None:
    new = [NewSuppression(key, key, reason, note)]
    write(store, lambda db: suppressions.add(db, new, Holds(owner_id, topic), SuppressionSource.COMMAND, NOW))


@pytest.mark.parametrize(("options", "names"), AUDIENCES.values(), ids=AUDIENCES)
def test_numbers_audience_dry_run_and_emails_agree(
    people: Home, store: Store, ada: Actor, options: tuple[str, ...], names: set[str]
) -> None:
    expected = {address(name): PEOPLE[name] for name in names}
    getting = sorted(email for email, reason in expected.items() if reason is None)
    kinds = Counter(reason.partition(" ")[0] for reason in expected.values() if reason is not None)

    pairs = list(zip(options[::2], options[1::2], strict=True))
    values = {name: [value for each, value in pairs if each == name] for name in ("--tag", "--client")}
    selected = Audience(not options, values["--tag"], [int(client_id) for client_id in values["--client"]])
    due_now = ScheduleInput("now", None, Every.ONCE, "UTC")
    before = mailings.count_recipients_of_new(
        store, ada, message_id=1, schedule=due_now, audience=selected, topic="news"
    )
    assert before == AudienceCount(len(getting), kinds["suppressed"], kinds["bad"])

    audience = options or ("--all-clients",)
    create = ("mailings", "create", "--message", "1", "--start", "now", "--every", "once", "--topic", "news")
    created = people.call(*create, *audience, "--no-send", "--json")
    mailing = str(created.json["id"])
    shown = people.call("mailings", "show", mailing, "--json").json
    for numbers in (created.json, shown):
        assert numbers["recipients"] == len(getting)
        assert numbers["left_out"] == {
            "suppressed": kinds["suppressed"],
            "bad_address": kinds["bad"],
            "no_consent": 0,
            "excluded": 0,
        }

    listed = people.call("mailings", "audience", mailing, "--json").json
    assert {row["email"]: row["left_out"] for row in listed} == expected
    assert len(listed) == len(expected)
    left_out = people.call("mailings", "audience", mailing, "--left-out", "--json").json
    assert left_out == [row for row in listed if row["left_out"] is not None]

    forecast = people.call("run", "--dry-run", "--json").json
    assert sorted(row["email"] for row in forecast["clients"]) == getting
    assert [due["left_out"] for due in forecast["due"]] == [kinds.total()]

    assert people.call("run", "--json").json["outbox"] == len(getting)
    attempts = people.call("mailings", "log", mailing, "--json").json
    assert sorted(row["email"] for row in attempts) == getting


def test_audience_is_lines_in_a_pipe_and_a_table_with_its_numbers_on_a_terminal(people: Home) -> None:
    mailing = str(create(people, "--topic", "News"))

    lines = people.call("mailings", "audience", mailing, "--limit", "4").out.splitlines()
    assert lines == [f"{address(name)}\t{PEOPLE[name] or ''}" for name in list(PEOPLE)[:4]]
    lines = people.call("mailings", "audience", mailing, "--left-out", "--limit", "1").out.splitlines()
    assert lines == [f"{address('left')}\tsuppressed since 2026-03-02: unsubscribed"]

    table = people.call("mailings", "audience", mailing, width=120)
    assert address("badleft") in table.out
    assert table.err == "mailing 1 goes to 5 clients\nleft out: 5 suppressed, 2 with a bad address\n"
    assert people.call("mailings", "audience", str(create(people, "--client", "1")), "--left-out", width=80).err == (
        "nobody is left out\nmailing 2 goes to 1 client\n"
    )


def test_audience_is_read_in_batches(people: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    mailing = str(create(people, "--tag", "vip"))
    read = ("mailings", "audience", mailing, "--json")
    whole = [people.call(*read, *more).json for more in ((), ("--left-out",))]

    monkeypatch.setattr("skychimp.store.occurrences.opening.OPENING_BATCH", 1)
    assert [people.call(*read, *more).json for more in ((), ("--left-out",))] == whole


def test_audience_of_another_user_is_not_found(people: Home, home_of: Any, bob: Actor, manager: Actor) -> None:
    mailing = str(create(people))

    assert home_of(bob).call("mailings", "audience", mailing).status == 4
    assert home_of(manager).call("mailings", "audience", mailing).status == 5
    assert people.call("mailings", "audience", "99").status == 4


# The question and the numbers before it is sent


@pytest.mark.parametrize(("answer", "status"), [("n", 1), ("y", 0)])
def test_create_asks_before_it_sends(people: Home, answer: str, status: int) -> None:
    create = ("mailings", "create", "--message", "1", "--start", "now", "--every", "once", "--tag", "vip")

    asked = people.on_terminal(*create, answers=[("Send to 5 clients now? [y/N]", f"{answer}\n")])

    assert asked.status == status
    assert "left out: 4 suppressed, 2 with a bad address" in asked.out
    listed = people.call("mailings", "list", "--json").json
    assert [row["id"] for row in listed] == [1] * (status == 0)  # "no" creates nothing, and takes no id
    sent = people.call("mailings", "log", "1", "--json").json if listed else []
    assert len(sent) == (0 if status else 5)


@pytest.mark.parametrize(
    "options", [("--yes",), ("--no-send",), ("--client", "1"), ("--start", "2030-01-01 09:00")], ids=" ".join
)
def test_create_asks_only_before_it_sends_to_several(people: Home, options: tuple[str, ...]) -> None:
    create = ["mailings", "create", "--message", "1", "--every", "once", *options]
    create += [] if "--start" in options else ["--start", "now"]
    create += [] if "--client" in options else ["--all-clients"]

    assert people.on_terminal(*create).status == 0


def test_create_says_how_many_are_left_out(people: Home) -> None:
    create = ("mailings", "create", "--message", "1", "--start", "+1d", "--every", "day")

    assert people.call(*create, "--all-clients").err.splitlines()[:2] == [
        "mailing 1 goes to 6 clients",
        "left out: 4 suppressed, 2 with a bad address",
    ]
    assert people.call(*create, "--client", "4").err.splitlines()[:2] == [
        "warning: mailing 2 goes to no client",
        "left out: 1 suppressed",
    ]


def test_enabling_a_due_mailing_asks_with_the_number_of_its_clients(people: Home) -> None:
    mailing = str(create(people, "--no-send", start="now", every="once"))
    people.call("mailings", "disable", mailing)

    asked = people.on_terminal("mailings", "enable", mailing, answers=[("Send to 6 clients now? [y/N]", "n\n")])

    assert "left out: 4 suppressed, 2 with a bad address" in asked.out
    assert people.call("mailings", "show", mailing, "--json").json["disabled"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "all clients"),
        (("--tag", "vip"), "clients with the tag vip"),
        (("--tag", "vip", "--tag", "gold"), "clients with one of the tags gold, vip"),
        (("--tag", "vip", "--client", "1", "--client", "2"), "clients with the tag vip, and 2 named clients"),
        (("--client", "1"), "1 named client"),
    ],
)
def test_show_says_the_audience_in_words(people: Home, options: tuple[str, ...], words: str) -> None:
    mailing = str(create(people, *options))

    shown = people.call("mailings", "show", mailing).out.splitlines()

    assert f"audience\t{words}" in shown
    assert people.call("mailings", "update", mailing, "--topic", "News", "--json").json["recipients"] > 0


def test_adverb_of_a_period_and_a_day_are_understood(message: Home) -> None:
    for every, period in (("daily", "day"), ("Weekly", "week"), ("monthly", "month"), ("MONTH", "month")):
        mailing = str(create(message, start="tomorrow 9am", every=every))
        assert message.call("mailings", "show", mailing, "--json").json["every"] == period


def test_window_in_the_past_is_said(message: Home) -> None:
    arguments = ("--message", "1", "--start", "2020-01-01", "--end", "2020-02-01", "--every", "day", "--all-clients")
    created = message.call("mailings", "create", *arguments)
    assert created.status == 0
    assert "its end has passed, so it will never be sent" in created.err
    assert "skychimp mailings update 1 --end WHEN" in created.err


def test_client_is_named_by_id_or_address(message: Home) -> None:
    for name in "ab":
        message.call("clients", "create", "--email", f"{name}@x.example")
    mailing = str(create(message, "--client", "B@X.example", "--client", "1"))
    assert message.call("mailings", "show", mailing, "--json").json["client_ids"] == [1, 2]
    arguments = ("--message", "1", "--start", "tomorrow", "--every", "day", "--client", "c@x.example")
    assert message.call("mailings", "create", *arguments).status == 4


def test_mailing_without_due_times_says_why(message: Home) -> None:
    once = str(create(message, every="once"))
    over = str(create(message, "--end", "2030-01-02 08:00", "--timezone", "UTC"))
    after = ("--from", "2030-02-01")
    assert (
        message.call("mailings", "preview", once, *after, width=80).err == "no more due times: it is sent only once\n"
    )
    shown = message.call("mailings", "preview", over, *after, width=80)
    assert (shown.out, shown.err) == ("", "no more due times: it ends 2030-01-02 08:00 UTC\n")
    piped = message.call("mailings", "preview", over, *after)
    assert (piped.status, piped.out, piped.err) == (0, "", "")


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (("mailings", "log", "1"), 'no attempts yet; run "skychimp run" to send due emails'),
        (("mailings", "log", "1", "--status", "failed"), "no matching attempts"),
        (("mailings", "log", "1", "--offset", "9"), "no matching attempts"),
        (("report", "1", "--table", "replies"), "nothing was due yet"),
        (("audit", "list", "--operator", "--search", "nothing has this"), "no matching entries"),
        (("clients", "list", "--offset", "99"), "0 of 1 client"),
    ],
)
def test_empty_result_is_said_on_a_terminal_only(
    message: Home, store: Store, ada: Actor, command: tuple[str, ...], shown: str
) -> None:
    create_client(store, ada, "one")
    create(message)
    assert message.call(*command, width=80).err.splitlines()[-1] == shown
    piped = message.call(*command)
    assert (piped.status, piped.out, piped.err) == (0, "", "")


def test_client_in_no_mailing_is_said(store: Store, ada: Actor, home: Home) -> None:
    create_client(store, ada, "one")
    email = home.call("clients", "list", "--json").json[0]["email"]
    assert "no mailing has included it, and none will\n" in home.call("why", email, width=80).out
    assert home.call("why", email).out == ""
