"""Test clients: validation, access, lists, and import and export as CSV."""

import csv
import io
import string
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from types import ModuleType
from typing import Any, TextIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text
from support import ledger_rows, queue_steps

from skychimp.addresses import Rules
from skychimp.errors import Conflict, Denied, InvalidValue, NotFound, NotLoggedIn
from skychimp.models import Client, Delivery, DeliveryState, Outcome
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.clients import clients, importing
from skychimp.services.clients.clients import ClientInfo, Export, ExportedClient
from skychimp.services.clients.files import csv_files, jsonl_files, text_files
from skychimp.services.clients.importing import ImportedRow, ImportResult, InvalidRow
from skychimp.services.listing import ListOptions
from skychimp.store.database import SQLITE, Store
from skychimp.text import MAX_TAGS

HUGE = "9" * 30
SLOW = pytest.mark.slow


def list_emails(store: Store, actor: Actor, options: ListOptions | None = None, tag: str | None = None) -> list[str]:
    return [client.email for client in clients.list_clients(store, actor, options or ListOptions(), tag)]


def open_text(data: bytes) -> TextIO:
    """Open bytes in UTF-8 as the import opens a file."""
    return text_files.open_text(io.BytesIO(data), "utf-8").file


def import_csv(
    store: Store, actor: Actor, data: str | bytes, *, update: bool = False, tags: Sequence[str] = ()
) -> tuple[ImportResult, dict[int, str]]:
    """Import CSV. Returns the result, and the reasons of the invalid rows by line."""
    raw = data.encode() if isinstance(data, str) else data
    file = csv_files.read(open_text(raw))
    rejected: list[InvalidRow] = []
    columns = file.columns if update else ()
    result = importing.import_rows(
        store, actor, file.rows, update_columns=columns, tags=tags, on_rejected=rejected.append
    )
    assert result.bad == len(rejected)
    return result, {row.line: row.reason for row in rejected}


# Create, change, delete


def test_created_client_is_found_by_id_and_by_address(store: Store, ada: Actor) -> None:
    created = clients.create(
        store, ada, email=" Zoë@Bücher.Example ", name=" Zoë  Ж 吳 ", comment="a\r\nb\rc", tags=["vip", "b", "vip"]
    )

    assert (created.email, created.name, created.comment, created.tags) == (
        "Zoë@bücher.example",
        "Zoë  Ж 吳",
        "a\nb\nc",
        ["b", "vip"],
    )
    assert created.created_at.utcoffset() is not None
    for name in (str(created.id), "zoë@xn--bcher-kva.example", "ZOË@BÜCHER.EXAMPLE"):
        assert clients.show(store, ada, name) == created


INVALID_VALUES: list[tuple[str, Any]] = [
    ("email", "nobody"),
    ("email", ""),
    ("email", "a" * 250 + "@x.org"),
    ("email", "a@x.org\nBcc: b@x.org"),
    ("email", "\udcff@x.org"),
    ("name", "Ada\nBcc: b@x.org"),
    ("name", "Ada\r"),
    ("name", "a\0b"),
    ("name", "a\u2028b"),
    ("name", "half \ud800"),
    ("name", "x" * 1001),
    ("comment", "\x1b[31m"),
    ("comment", "half \udfff"),
    ("comment", "x" * 10_001),
    ("tags", ["a,b"]),
    ("tags", ["a;b"]),
    ("tags", [" "]),
    ("tags", ["a\nb"]),
    ("tags", ["x" * 101]),
    ("tags", [str(number) for number in range(101)]),
]


def test_invalid_value_is_refused_with_one_short_line_and_changes_nothing(store: Store, ada: Actor) -> None:
    good = clients.create(store, ada, email="ada@example.org", name="Ada", comment="c", tags=["t"])

    for field, value in INVALID_VALUES:
        with pytest.raises(InvalidValue) as created:
            clients.create(store, ada, **({"email": "new@example.org"} | {field: value}))
        with pytest.raises(InvalidValue):
            clients.change(store, ada, "ada@example.org", **{field: value})

        assert len(created.value.message) < 400
        assert "\n" not in created.value.message
        assert list(clients.list_clients(store, ada, ListOptions())) == [good], (field, value)


def test_address_is_unique_among_the_clients_of_one_user_only(store: Store, ada: Actor, bob: Actor) -> None:
    clients.create(store, ada, email="x@example.org")
    clients.create(store, ada, email="y@example.org")
    clients.create(store, bob, email="x@example.org", name="Bob's")

    with pytest.raises(Conflict):
        clients.create(store, ada, email="X@EXAMPLE.org")
    with pytest.raises(Conflict):
        clients.change(store, ada, "y@example.org", email="x@example.org")

    assert list_emails(store, ada) == ["x@example.org", "y@example.org"]
    assert clients.show(store, bob, "x@example.org").name == "Bob's"


UNUSUAL, ANY_DOMAIN = Rules(accept_unusual=True), Rules(allow_local=True)


@pytest.mark.parametrize(
    ("email", "rules", "hint"),
    [
        ("a..b@docomo.ne.jp", UNUSUAL, "pass --accept-unusual if the address exists"),
        ("a.@docomo.ne.jp", UNUSUAL, "pass --accept-unusual if the address exists"),
        ('"a..b"@docomo.ne.jp', UNUSUAL, "pass --accept-unusual if the address exists"),
        ("root@intranet", ANY_DOMAIN, "set mail.allow_local = true to accept addresses in your own network"),
    ],
)
def test_address_that_needs_a_rule_is_refused_with_a_hint_and_then_works_like_any_other(
    store: Store, ada: Actor, email: str, rules: Rules, hint: str
) -> None:
    clients.create(store, ada, email="x@example.org")
    for refused in (
        partial(clients.create, store, ada, email=email),
        partial(clients.change, store, ada, "x@example.org", email=email),
    ):
        with pytest.raises(InvalidValue) as caught:
            refused()
        assert caught.value.hint == hint
    _, bad = import_csv(store, ada, f'email\n"{email.replace(chr(34), chr(34) * 2)}"\n')
    assert bad[2].endswith(f"; {hint}")

    created = clients.create(store, ada, email=email, rules=rules)
    assert clients.show(store, ada, email.upper()) == created
    assert clients.change(store, ada, email, name="New").email == email, "the address is not checked again"
    with pytest.raises(Conflict):
        clients.change(store, ada, "x@example.org", email=email, rules=rules)
    assert clients.remove(store, ada, email).email == email
    assert clients.change(store, ada, "x@example.org", email=email, rules=rules).email == email


def test_quotes_around_a_local_part_do_not_make_another_client(store: Store, ada: Actor) -> None:
    clients.create(store, ada, email="a..b@docomo.ne.jp", rules=UNUSUAL)

    with pytest.raises(Conflict):
        clients.create(store, ada, email='"A..b"@docomo.ne.jp', rules=UNUSUAL)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"add_tags": ["new"]}, ["Vip", "b", "new"]),
        ({"add_tags": ["VIP", "c"]}, ["Vip", "b", "c"]),
        ({"remove_tags": ["vip", "gone"]}, ["b"]),
        ({"add_tags": ["c"], "remove_tags": ["B", "ViP"]}, ["c"]),
        ({"tags": ["VIP"]}, ["Vip"]),
        ({"tags": ["ÉTÉ", "B"], "add_tags": ["e\N{COMBINING ACUTE ACCENT}te\N{COMBINING ACUTE ACCENT}"]}, ["b", "ÉTÉ"]),
    ],
)
def test_tags_are_added_removed_and_replaced_in_any_spelling(
    store: Store, ada: Actor, change: dict[str, Any], expected: list[str]
) -> None:
    clients.create(store, ada, email="x@example.org", tags=["Vip", "b"])

    assert sorted(clients.change(store, ada, "x@example.org", **change).tags) == expected


def test_existing_client_with_tags_is_offered_to_get_them(store: Store, ada: Actor) -> None:
    clients.create(store, ada, email="x@example.org", tags=["a"])

    for tags, hint in (
        (["b", "c d"], "skychimp clients update --add-tag b --add-tag 'c d' x@example.org"),
        ([], "skychimp clients show x@example.org"),
    ):
        with pytest.raises(Conflict) as caught:
            clients.create(store, ada, email="x@EXAMPLE.org", tags=tags)
        assert caught.value.hint == f'run "{hint}"'


def test_import_keeps_the_first_spelling_of_a_tag(store: Store, ada: Actor, bob: Actor) -> None:
    clients.create(store, bob, email="bobs@example.org", tags=["NEW"])
    clients.create(store, ada, email="a@example.org", tags=["VIP"])
    data = "email,tags\nb@example.org,vip;New;new\nc@example.org,NEW\na@example.org,Vip;nEw\n"

    import_csv(store, ada, data, update=True)

    tags = {client.email[0]: sorted(client.tags) for client in clients.list_clients(store, ada, ListOptions())}
    assert tags == {"a": ["New", "VIP"], "b": ["New", "VIP"], "c": ["New"]}
    assert clients.count(store, ada, "new") == 3


def test_only_bad_clients_are_listed(store: Store, ada: Actor) -> None:
    for name in ("a", "b"):
        clients.create(store, ada, email=f"{name}@example.org")
    with store.write() as db:
        client = db.get_one(Client, 1)
        client.bad_at, client.bad_reason = datetime.now(UTC), "550 5.1.1 no such user"

    assert [each.email for each in clients.list_clients(store, ada, ListOptions(), only_bad=True)] == ["a@example.org"]


def test_unknown_client_and_client_of_another_user_are_not_found(store: Store, ada: Actor, bob: Actor) -> None:
    clients.create(store, ada, email="ada@example.org")
    clients.create(store, bob, email="bobs@example.org")

    for name in ("0", "-5", "2", HUGE, "9" * 5000, "nobody", "", "x@example.org", "bobs@example.org", "\udcff"):
        for action in (clients.show, clients.change, clients.remove):
            with pytest.raises(NotFound):
                action(store, ada, name)

    assert list_emails(store, bob) == ["bobs@example.org"]


def test_change_keeps_values_that_are_not_given(store: Store, ada: Actor) -> None:
    created = clients.create(store, ada, email="a@example.org", name="A", comment="c", tags=["t"])

    clients.change(store, ada, str(created.id), name="")
    assert clients.change(store, ada, str(created.id), email="b@example.org") == ClientInfo(
        created.id, "b@example.org", "", "c", ["t"], {}, created.created_at, None, None, None, None
    )
    assert clients.change(store, ada, str(created.id), tags=[]).tags == []


@pytest.mark.parametrize(
    ("change", "still_bad"),
    [
        ({"name": "New"}, True),
        ({"email": "BAD@example.org"}, True),
        ({"email": "good@example.org"}, False),
        ({"good": True}, False),
    ],
)
def test_new_address_or_good_clears_the_mark_of_a_bad_address(
    store: Store, ada: Actor, change: dict[str, Any], still_bad: bool
) -> None:
    clients.create(store, ada, email="bad@example.org")
    with store.write() as db:
        client = db.get_one(Client, 1)
        client.bad_at, client.bad_reason = datetime.now(UTC), "550 5.1.1 no such user"

    clients.change(store, ada, "1", **change)

    assert (clients.show(store, ada, "1").bad_at is not None) == still_bad


def test_waiting_emails_go_to_a_new_address(store: Store, ada: Actor) -> None:
    queue_steps.create_run(store)
    queue_steps.open_mailing(store, ada, "ann", "bob", "cid")
    (ann,) = queue_steps.claim(store, limit=1)
    queue_steps.send(store, 1, Outcome.SENT, ann)
    queue_steps.close_leases(store)
    for name in ("ann", "bob"):
        clients.change(store, ada, f"{name}@example.org", email=f"{name}@new.example")
    with store.read() as db:
        addresses = db.scalars(select(Delivery.__table__.c.address).order_by(Delivery.__table__.c.id)).all()
    assert addresses == ["ann@example.org", "bob@new.example", "cid@example.org"]


def test_deleting_a_client_cancels_queued_deliveries_and_keeps_sent_ones(store: Store, ada: Actor, bob: Actor) -> None:
    clients.create(store, ada, email="x@example.org", tags=["t"])
    clients.create(store, bob, email="x@example.org")
    queued = add_delivery(store, ada, "x@example.org", DeliveryState.QUEUED)
    deferred = add_delivery(store, ada, "x@example.org", DeliveryState.DEFERRED)
    sent = add_delivery(store, ada, "x@example.org", DeliveryState.SENT)
    bobs = add_delivery(store, bob, "x@example.org", DeliveryState.QUEUED)

    clients.remove(store, ada, "x@example.org")

    assert list_emails(store, ada) == []
    assert list_emails(store, bob) == ["x@example.org"]
    with store.read() as db:
        states = [db.get_one(Delivery, each).state for each in (queued, deferred, sent, bobs)]
    cancelled = DeliveryState.CANCELLED
    assert states == [cancelled, cancelled, DeliveryState.SENT, DeliveryState.QUEUED]
    assert clients.create(store, ada, email="x@example.org").id > 2, "the log refers to ids: none may be used again"


def add_delivery(store: Store, owner: Actor, address: str, state: DeliveryState) -> int:
    """Add a delivery in an open occurrence of a mailing of its own, and return its id."""
    return ledger_rows.delivery(store, ledger_rows.occurrence(store, ledger_rows.mailing(store, owner)), address, state)


# Access and lists


def test_only_the_owner_sees_clients(store: Store, ada: Actor, manager: Actor, admin: Actor) -> None:
    clients.create(store, ada, email="x@example.org")

    assert list_emails(store, admin) == []
    for actor, refusal in ((manager, Denied), (ANONYMOUS, NotLoggedIn)):
        with pytest.raises(refusal):
            list_emails(store, actor)
        with pytest.raises(refusal):
            clients.show(store, actor, "1")
        with pytest.raises(refusal):
            clients.create(store, actor, email="y@example.org")
        with pytest.raises(refusal):
            importing.import_rows(store, actor, [], on_rejected=print)


@pytest.fixture
def some_clients(store: Store, ada: Actor) -> Actor:
    for email, name, tags in (
        ("c@example.org", "Åse 100%", ["vip"]),
        ("a@example.org", "bob_b", ["vip", "b"]),
        ("b@example.com", "Ada", []),
        ("d@example.com", "ŽOFIE", []),
    ):
        clients.create(store, ada, email=email, name=name, tags=tags)
    return ada


LISTS = [
    (ListOptions(), "cabd"),
    (ListOptions(limit=2), "ca"),
    (ListOptions(limit=0), ""),
    (ListOptions(limit=10**30), "cabd"),
    (ListOptions(offset=3), "d"),
    (ListOptions(limit=1, offset=1), "a"),
    (ListOptions(offset=10**30), ""),
    (ListOptions(sort="email"), "abcd"),
    (ListOptions(sort="-email"), "dcba"),
    (ListOptions(sort="-id", limit=1), "d"),
    (ListOptions(search="EXAMPLE.ORG"), "ca"),
    (ListOptions(search="%"), "c"),
    (ListOptions(search="_"), "a"),
    (ListOptions(search="\\"), ""),
    (ListOptions(search="ada", sort="name"), "b"),
    (ListOptions(search="Åse"), "c"),
]


def test_list_options_limit_sort_and_search(store: Store, some_clients: Actor) -> None:
    for options, expected in LISTS:
        assert [email[0] for email in list_emails(store, some_clients, options)] == list(expected), options


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("åse", "c"), ("ÅSE", "c"), ("žofie", "d"), ("A\N{COMBINING RING ABOVE}se 100%", "c"), ("z\u030cOFIE", "d"),
        ("οδος", "efg"), ("ΟΔΟΣ", "efg"), ("café", "efg"), ("CAFE\u0301", "efg"), ("жюри", "g"),
    ],
)  # fmt: skip
def test_search_ignores_case_in_every_script(store: Store, some_clients: Actor, search: str, expected: str) -> None:
    for email, name in (
        ("e@example.com", "ΟΔΟΣ CAFÉ"),
        ("f@example.com", "οδος cafe\u0301"),
        ("g@example.com", "Οδοσ Café ЖЮРИ"),
    ):
        clients.create(store, some_clients, email=email, name=name)
    found = [email[0] for email in list_emails(store, some_clients, ListOptions(search=search))]
    assert found == list(expected)


def test_list_by_tag(store: Store, some_clients: Actor) -> None:
    for tag in ("vip", "VIP"):
        assert list_emails(store, some_clients, tag=tag) == ["c@example.org", "a@example.org"]
    assert list_emails(store, some_clients, ListOptions(search="bob"), tag=" vip ") == ["a@example.org"]
    assert list_emails(store, some_clients, tag="vi") == []


@pytest.mark.parametrize(
    "options", [ListOptions(sort="shoe size"), ListOptions(sort="--id"), ListOptions(search="\udcff")]
)
def test_invalid_list_options_are_refused(store: Store, ada: Actor, options: ListOptions) -> None:
    with pytest.raises(InvalidValue):
        list_emails(store, ada, options)


# CSV


@pytest.mark.parametrize(
    "data",
    [
        "email,name,comment,tags\nx@example.org,Ada,hi,a;b\n",
        '\ufeffemail,name,comment,tags\r\nx@example.org,Ada,hi,"a, b"\r\n',
        "Email;Name;Comment;Tags\nx@example.org;Ada;hi;a,b\n",
        "tags\tcomment\tname\temail\na,b\thi\tAda\tx@example.org\n",
        "E-Mail,Phone,Full Name,Comments,Tag\nx@example.org,123,Ada,hi,a;b\n",
        "email,name,comment,tags\rx@example.org,Ada,hi,a;b\r",
        'email,name,comment,tags\n"x@example.org","Ada","hi","a,b"',
        "email,name,comment,tags\n\n  \n,,,\nx@example.org, Ada ,hi,a;b\n\n",
    ],
    ids=["plain", "bom-crlf", "semicolons", "tabs", "other-names", "cr", "quoted-no-end", "blank-lines"],
)
def test_every_csv_dialect_is_read(store: Store, ada: Actor, data: str) -> None:
    result, bad = import_csv(store, ada, data)

    assert (result, bad) == (ImportResult(created=1), {})
    (created,) = clients.list_clients(store, ada, ListOptions())
    assert (created.email, created.name, created.comment, created.tags) == ("x@example.org", "Ada", "hi", ["a", "b"])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"name,comment\nAda,hi\n",
        b"ada@example.org,Ada\n",
        b"email,name,Email\nx@example.org,Ada,y@example.org\n",
        b'email,"name\nx@example.org,Ada\n',
        "email,name\nx@example.org,Ada\n".encode("utf-16"),
        b"email,n\xe4me\nx@example.org,Ada\n",
        b"x" * 3_000_000,
    ],
    ids=["empty", "blank", "no-email", "no-header", "twice", "open-quote", "utf-16", "latin-1", "endless"],
)
def test_csv_without_a_valid_header_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidValue):
        csv_files.read(open_text(data))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_each_invalid_row_is_reported_with_the_line_at_which_it_begins(store: Store, ada: Actor, end: str) -> None:
    lines = [
        b"email,name,comment,tags",  # 1
        b"one@example.org,One,,",
        b"bad@@example.org,Bad,,",  # 3
        b'two@example.org,Two,"a comment',
        b"of three",
        b'lines",t',
        b'three@example.org,"Two',  # 7
        b'lines",,',
        b"four@example.org,\xff\xfe,,",  # 9
        b"five@example.org,nul\x00,,",  # 10
        b"six@example.org,Doe, John,,",  # 11
        b"seven@example.org,Seven",
        b"",
        b",Nobody,,",  # 14
        b"eight@example.org," + b"x" * 200_000 + b",,",  # 15
        b"nine@example.org," + b"x" * 3_000_000 + b",,",  # 16
        b"ten@example.org,Ten,,a;b",
        b"eleven@example.org,Eleven,," + b"t" * 101,  # 18
        b"one@example.org,Again,,",
    ]

    result, bad = import_csv(store, ada, end.encode().join(lines))

    assert sorted(bad) == [3, 7, 9, 10, 11, 14, 15, 16, 18]
    assert all(len(reason) < 200 for reason in bad.values())
    assert bad[9] == "characters that are not valid in the file's encoding; see --encoding"
    assert result == ImportResult(created=4, skipped=1, bad=9)
    assert list_emails(store, ada) == [f"{name}@example.org" for name in ("one", "two", "seven", "ten")]
    assert clients.show(store, ada, "two@example.org").comment == "a comment\nof three\nlines"


@pytest.mark.parametrize("cell", ['"open', '"op"en"', '"open ""', '"'])
def test_unclosed_quote_spoils_only_its_own_row(store: Store, ada: Actor, cell: str) -> None:
    data = "email,name,comment\n" + f"bad@example.org,{cell}\n" + "".join(f"c{n}@example.org,N,\n" for n in range(50))

    result, bad = import_csv(store, ada, data)

    assert list(bad) == [2]
    assert result == ImportResult(created=50, bad=1)


@pytest.mark.parametrize("line", ['a","""', *(pytest.param(line, marks=SLOW) for line in ('a","', 'a@example.org","'))])
def test_file_with_nothing_but_unclosed_quotes_is_not_read_again_and_again(line: str) -> None:
    """A file of this size took hours. The limit is generous."""
    started = time.process_time()
    rows = list(csv_files.read(open_text(("email,name\n" + f"{line}\n" * 200_000).encode())).rows)

    assert time.process_time() - started < 10
    assert rows[-1].reason == "too many unclosed quotes; the rest of the file was not read"  # type: ignore[union-attr]


def test_many_unclosed_quotes_spoil_only_their_own_rows() -> None:
    line = "".join(f"good{{0}}-{number}@example.org,N\n" for number in range(20)) + 'bad{0}@example.org,"Bad\n'
    rows = list(csv_files.read(open_text(("email,name\n" + "".join(map(line.format, range(1_000)))).encode())).rows)

    assert sum(isinstance(row, InvalidRow) for row in rows) == 1_000
    assert sum(isinstance(row, ImportedRow) for row in rows) == 20_000


def test_row_of_endless_lines_is_refused() -> None:
    rows = list(csv_files.read(open_text(b'email,name\n"' + b"x\n" * 40_000 + b'"\nx@example.org,X\n')).rows)

    assert isinstance(rows[0], InvalidRow)
    assert isinstance(rows[-1], ImportedRow)


@pytest.mark.parametrize(
    "data",
    [
        "email," + "," * 200_000 + "\n" + "a\n" * 100_000,
        "email,tags\na@example.org," + "t;" * 400_000 + "\n",
        "email,tags\n" + 'a@example.org,"' + "t," * 400_000 + '"\n',
        "email\n" + "," * 900_000 + "\n",
        "email\n" + '"",' * 300_000 + "\n",
        "email\n" + "'" * 900_000 + "\n",
        "email\n" + '"' * 900_000 + "\n",
        "email\n" + "a\r" * 50_000,
        'Email Address,LEID,TAGS\na@example.org,1,"' + '""a"",' * 100_000 + '"\n',
        'email,attributes\na@example.org,"' + "[" * 400_000 + "]" * 400_000 + '"\n',
        'email,attributes\na@example.org,"{""a"": ' + "9" * 900_000 + '}"\n',
    ],
    ids=range(11),
)
def test_hostile_csv_is_read_in_linear_time(store: Store, ada: Actor, data: str) -> None:
    """Ten seconds are generous for a file of at most 1 MB, but not for quadratic time."""
    started = time.process_time()
    with suppress(InvalidValue):
        import_csv(store, ada, data)
    assert time.process_time() - started < 10


def test_csv_with_too_many_columns_is_refused() -> None:
    with pytest.raises(InvalidValue, match="the file has 1,002 columns"):
        csv_files.read(open_text(b"email," + b"," * 1_000))


def test_client_with_a_million_tags_is_refused(store: Store, ada: Actor) -> None:
    result, bad = import_csv(store, ada, "email,tags\na@example.org," + ";".join(map(str, range(100_000))) + "\n")

    assert (result.bad, bad) == (1, {2: "too many tags: 100,000; use at most 100 tags"})


def test_without_update_the_first_row_of_an_address_wins(store: Store, ada: Actor) -> None:
    clients.create(store, ada, email="old@example.org", name="Old", tags=["t"])

    result, _ = import_csv(store, ada, "email,name,tags\nOLD@example.org,New,u\nx@example.org,1,a\nX@EXAMPLE.ORG,2,b\n")

    assert result == ImportResult(created=1, skipped=2)
    listed = [(each.email, each.name, each.tags) for each in clients.list_clients(store, ada, ListOptions())]
    assert listed == [("old@example.org", "Old", ["t"]), ("x@example.org", "1", ["a"])]


def test_with_update_the_last_row_wins_and_missing_columns_are_not_changed(
    store: Store, ada: Actor, bob: Actor
) -> None:
    clients.create(store, ada, email="old@example.org", name="Old", comment="kept", tags=["kept"])
    clients.create(store, bob, email="old@example.org", name="Bob's")
    clients.create(store, ada, email="other@example.org", name="Other", tags=["t"])

    result, _ = import_csv(
        store, ada, "email,name\nOLD@example.org,New\nx@example.org,1\nX@example.org,2\n", update=True
    )
    assert result == ImportResult(created=1, updated=2)
    result, _ = import_csv(store, ada, "email,tags\nother@example.org,\nx@example.org,a;b\n", update=True)
    assert result == ImportResult(updated=2)

    listed = [
        (each.email, each.name, each.comment, each.tags) for each in clients.list_clients(store, ada, ListOptions())
    ]
    assert listed == [
        ("OLD@example.org", "New", "kept", ["kept"]),
        ("other@example.org", "Other", "", []),
        ("x@example.org", "2", "", ["a", "b"]),
    ]
    assert clients.show(store, bob, "old@example.org").name == "Bob's"


@pytest.mark.parametrize(
    ("data", "update", "known", "new"),
    [
        ("email\nknown@x.org\nnew@x.org\n", False, ["vip", "x"], ["Fair", "vip"]),
        ("email\nknown@x.org\nnew@x.org\n", True, ["Fair", "vip", "x"], ["Fair", "vip"]),
        ("email,tags\nknown@x.org,y\nnew@x.org,z\n", False, ["vip", "x"], ["Fair", "vip", "z"]),
        ("email,tags\nknown@x.org,y\nnew@x.org,fair\n", True, ["Fair", "vip", "y"], ["Fair", "vip"]),
    ],
)
def test_imported_clients_get_tags(
    store: Store, ada: Actor, data: str, update: bool, known: Sequence[str], new: Sequence[str]
) -> None:
    clients.create(store, ada, email="known@x.org", name="Known", tags=["vip", "x"])
    clients.create(store, ada, email="other@x.org", tags=["t"])

    import_csv(store, ada, data, update=update, tags=["VIP", "Fair"])

    tags = {client.email: client.tags for client in clients.list_clients(store, ada, ListOptions())}
    assert tags == {"known@x.org": known, "other@x.org": ["t"], "new@x.org": new}
    assert clients.show(store, ada, "known@x.org").name == "Known"


def test_client_with_no_room_for_the_tags_of_an_import_is_not_changed(store: Store, ada: Actor) -> None:
    many = [f"t{number:02}" for number in range(MAX_TAGS - 1)]
    clients.create(store, ada, email="full@x.org", tags=[*many, "vip"])
    clients.create(store, ada, email="nearly@x.org", tags=many)

    data = "email,name\nfull@x.org,F\nnearly@x.org,N\n"
    assert import_csv(store, ada, data, update=True, tags=["VIP"])[0] == ImportResult(updated=2)
    result, bad = import_csv(store, ada, data.replace("F", "Z"), update=True, tags=["new"])

    assert (result, sorted(bad)) == (ImportResult(bad=2), [2, 3])
    assert bad[2] == "the client would have more than 100 tags; remove some of them first"
    assert clients.show(store, ada, "full@x.org").name == "F"
    assert import_csv(store, ada, data, update=True)[0] == ImportResult(updated=2)


def test_imported_client_is_stored_like_a_created_one(store: Store, ada: Actor) -> None:
    clients.create(store, ada, email="a@example.org", name="A", tags=["t"])
    import_csv(store, ada, "email,name,tags\nb@example.org,B,t\n")

    columns = "comment, bad_at" + (", length(created_at), typeof(name)" if store.dialect == SQLITE else "")
    with store.read() as db:
        stored = db.execute(text(f"SELECT {columns} FROM client")).all()
    assert stored[0] == stored[1]
    first, second = clients.list_clients(store, ada, ListOptions())
    assert timedelta() < second.created_at - first.created_at < timedelta(minutes=1)


def test_import_commits_batches_and_counts_all_of_them(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "IMPORT_BATCH", 3)
    data = "email,tags\n" + "".join(f"c{n % 8}@example.org,t{n}\n" for n in range(10)) + "bad\n"
    seen: list[int] = []
    file = csv_files.read(open_text(data.encode()))

    result = importing.import_rows(
        store, ada, file.rows, on_rejected=lambda row: None, on_batch=lambda so_far: seen.append(so_far.created)
    )

    assert result == ImportResult(created=8, skipped=2, bad=1)
    assert seen == [3, 6, 8, 8]
    assert [each.tags for each in clients.list_clients(store, ada, ListOptions())] == [[f"t{n}"] for n in range(8)]


AWKWARD = [
    ("=1+1", "\n=x", ["=a", "@b"]),
    ("'=1", "''=1", ["'=x"]),
    ("'Ada' O’Neill", "tab\there\nand a line\n", ["a b", "Ж"]),
    ("@SUM(1)", '"', ['"x"']),
    ("-", "  spaces  ", ["+1"]),
    ("\u202eAda\u200d", "'", []),
]


def test_exported_clients_are_imported_unchanged(store: Store, ada: Actor, bob: Actor) -> None:
    for number, (name, comment, tags) in enumerate(AWKWARD):
        clients.create(store, ada, email=f"=c{number}@example.org", name=name, comment=comment, tags=tags)
    exported = io.StringIO()

    assert csv_files.write(exported, clients.export(store, ada)) == len(AWKWARD)
    result, bad = import_csv(store, bob, exported.getvalue())

    assert (result.created, bad) == (len(AWKWARD), {})
    assert exported_values(store, bob) == exported_values(store, ada)


def exported_values(store: Store, actor: Actor) -> list[tuple[str, str, str, Sequence[str]]]:
    return [
        (each.email, each.name, each.comment, each.tags) for each in clients.list_clients(store, actor, ListOptions())
    ]


_texts = st.one_of(st.text(max_size=12), st.text("=+-@＝'\"\t\r\n;, aЖ\u2028\u202e", max_size=8))

_texts_without_cr = _texts.filter(lambda text: "\r" not in text)


_junk = st.one_of(st.binary(max_size=20), st.text(string.punctuation + "\r\t a", max_size=20).map(str.encode))

FEW_OR_MANY = pytest.mark.parametrize("examples", [25, pytest.param(500, marks=SLOW)])


@FEW_OR_MANY
@pytest.mark.parametrize("module", [csv_files, jsonl_files])
def test_every_valid_client_is_written_and_read_unchanged(module: ModuleType, examples: int) -> None:
    @settings(max_examples=examples)
    @given(rows=st.lists(st.tuples(_texts, _texts, st.lists(_texts, max_size=3)), max_size=6))
    def check(rows: list[tuple[str, str, list[str]]]) -> None:
        valid = []
        for number, (name, comment, tags) in enumerate(rows):
            with suppress(InvalidValue):
                valid.append(clients.validate_client(f"-c{number}@example.org", name, comment, tags))
        written = io.StringIO()

        exported = [ExportedClient(new.email, new.name, new.comment, list(new.tags), {}) for new in valid]
        module.write(written, Export([], has_consents=False, clients=iter(exported)))
        read = [row for row in module.read(open_text(written.getvalue().encode())).rows if isinstance(row, ImportedRow)]

        assert [clients.validate_client(row.email, row.name, row.comment, row.tags) for row in read] == valid

    check()


@FEW_OR_MANY
def test_no_cell_is_a_formula(examples: int) -> None:
    texts = _texts_without_cr

    @settings(max_examples=examples)
    @given(rows=st.lists(st.tuples(texts, texts, st.lists(texts, max_size=3)), max_size=6))
    def check(rows: list[tuple[str, str, list[str]]]) -> None:
        written = io.StringIO()
        exported = (ExportedClient("=c@x", *row, fields={}) for row in rows)
        csv_files.write(written, Export([], has_consents=False, clients=exported))
        for cells in csv.reader(io.StringIO(written.getvalue(), newline="")):
            assert not any(cell.startswith(("=", "+", "-", "@", "＝", "\t", "\r", "\n")) for cell in cells)

    check()


@FEW_OR_MANY
def test_no_bytes_break_the_reader_or_spoil_a_valid_line(examples: int) -> None:
    @settings(max_examples=2 * examples)
    @given(junk=st.lists(_junk, max_size=8))
    def check(junk: list[bytes]) -> None:
        good = [b"c%d@example.org,Good," % number for number in range(len(junk) + 1)]
        lines = [line for pair in zip(good, junk, strict=False) for line in pair] + good[len(junk) :]
        data = b"email,name,comment\n" + b"\n".join(lines)

        rows = list(csv_files.read(open_text(data)).rows)

        emails = {row.email for row in rows if isinstance(row, ImportedRow)}
        unclosed = any(b'"' in each for each in junk)
        assert unclosed or {line.partition(b",")[0].decode() for line in good} <= emails
        assert [row.line for row in rows] == sorted({row.line for row in rows})

    check()


def test_csv_reports_the_columns_that_are_ignored() -> None:
    file = csv_files.read(open_text(b"uuid,email,,Tags\n1,x@example.org,,\n"))

    assert (file.columns, file.ignored_columns) == (["email", "tags"], ["uuid"])
