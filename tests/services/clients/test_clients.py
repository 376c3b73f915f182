"""Clients: what may be kept, who finds whom, and CSV in and out."""

import csv
import io
import string
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any, TextIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from support import ledger_rows

from skychimp.errors import Conflict, Denied, InvalidValue, NotFound, NotLoggedIn
from skychimp.models import Client, Delivery, DeliveryState
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.clients import clients, csv_files, importing, jsonl_files
from skychimp.services.clients.clients import ClientInfo
from skychimp.services.clients.importing import BadRow, ClientRow, ImportResult, LeftOut
from skychimp.services.listing import ListOptions
from skychimp.store.database import Store

HUGE = "9" * 30


def emails(store: Store, actor: Actor, page: ListOptions | None = None, tag: str | None = None) -> list[str]:
    return [client.email for client in clients.list_clients(store, actor, page or ListOptions(), tag)]


def opened(data: bytes) -> TextIO:
    return io.TextIOWrapper(
        io.BytesIO(data), encoding=csv_files.ENCODING, errors=csv_files.ERRORS, newline=csv_files.NEWLINE
    )


def imported(
    store: Store, actor: Actor, data: str | bytes, *, update: bool = False
) -> tuple[ImportResult, dict[int, str]]:
    """What an import came to, and its bad rows by line."""
    raw = data.encode() if isinstance(data, str) else data
    sheet = csv_files.read(opened(raw))
    bad: list[BadRow | LeftOut] = []
    known = sheet.columns if update else ()
    result = importing.import_rows(store, actor, sheet.rows, change_known=known, on_bad=bad.append)
    assert result.bad == len(bad)
    return result, {row.line: row.reason for row in bad}


# One client


def test_what_is_created_is_shown_by_id_and_by_address(store: Store, ada: Actor) -> None:
    made = clients.create(
        store, ada, email=" Zoë@Bücher.Example ", name=" Zoë  Ж 吳 ", comment="a\r\nb\rc", tags=["vip", "b", "vip"]
    )

    assert (made.email, made.name, made.comment, made.tags) == (
        "Zoë@bücher.example",
        "Zoë  Ж 吳",
        "a\nb\nc",
        ["b", "vip"],
    )
    assert made.created_at.utcoffset() is not None
    for name in (str(made.id), "zoë@xn--bcher-kva.example", "ZOË@BÜCHER.EXAMPLE"):
        assert clients.show(store, ada, name) == made


@pytest.mark.parametrize(
    ("field", "value"),
    [
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
    ],
)
def test_what_can_not_be_used_is_refused_in_one_short_line_and_changes_nothing(
    store: Store, ada: Actor, field: str, value: Any
) -> None:
    good = clients.create(store, ada, email="ada@example.org", name="Ada", comment="c", tags=["t"])

    with pytest.raises(InvalidValue) as created:
        clients.create(store, ada, **({"email": "new@example.org"} | {field: value}))
    with pytest.raises(InvalidValue):
        clients.change(store, ada, "ada@example.org", **{field: value})

    assert len(created.value.message) < 400
    assert "\n" not in created.value.message
    assert list(clients.list_clients(store, ada, ListOptions())) == [good]


def test_one_address_is_one_client_of_a_user_but_may_be_another_users_too(store: Store, ada: Actor, bob: Actor) -> None:
    clients.create(store, ada, email="x@example.org")
    clients.create(store, ada, email="y@example.org")
    clients.create(store, bob, email="x@example.org", name="Bob's")

    with pytest.raises(Conflict):
        clients.create(store, ada, email="X@EXAMPLE.org")
    with pytest.raises(Conflict):
        clients.change(store, ada, "y@example.org", email="x@example.org")

    assert emails(store, ada) == ["x@example.org", "y@example.org"]
    assert clients.show(store, bob, "x@example.org").name == "Bob's"


@pytest.mark.parametrize(
    "who", ["0", "-5", "2", HUGE, "9" * 5000, "nobody", "", "x@example.org", "bobs@example.org", "\udcff"]
)
def test_unknown_and_somebody_elses_are_not_there(store: Store, ada: Actor, bob: Actor, who: str) -> None:
    clients.create(store, ada, email="ada@example.org")
    clients.create(store, bob, email="bobs@example.org")

    for action in (clients.show, clients.change, clients.remove):
        with pytest.raises(NotFound):
            action(store, ada, who)

    assert emails(store, bob) == ["bobs@example.org"]


def test_a_change_leaves_alone_what_is_not_given(store: Store, ada: Actor) -> None:
    made = clients.create(store, ada, email="a@example.org", name="A", comment="c", tags=["t"])

    clients.change(store, ada, str(made.id), name="")
    assert clients.change(store, ada, str(made.id), email="b@example.org") == ClientInfo(
        made.id, "b@example.org", "", "c", ["t"], made.created_at, None, None
    )
    assert clients.change(store, ada, str(made.id), tags=[]).tags == []


@pytest.mark.parametrize(
    ("change", "still_bad"),
    [
        ({"name": "New"}, True),
        ({"email": "BAD@example.org"}, True),
        ({"email": "good@example.org"}, False),
        ({"clear_bad": True}, False),
    ],
)
def test_a_bad_address_is_good_again_when_it_is_another_or_said_to_be(
    store: Store, ada: Actor, change: dict[str, Any], still_bad: bool
) -> None:
    clients.create(store, ada, email="bad@example.org")
    with store.write() as db:
        client = db.get_one(Client, 1)
        client.bad_at, client.bad_reason = datetime.now(UTC), "550 5.1.1 no such user"

    clients.change(store, ada, "1", **change)

    assert (clients.show(store, ada, "1").bad_at is not None) == still_bad


def test_deleting_a_client_cancels_what_waits_for_it_and_keeps_what_was_sent(
    store: Store, ada: Actor, bob: Actor
) -> None:
    clients.create(store, ada, email="x@example.org", tags=["t"])
    clients.create(store, bob, email="x@example.org")
    waiting = queued(store, ada, "x@example.org", DeliveryState.QUEUED)
    deferred = queued(store, ada, "x@example.org", DeliveryState.DEFERRED)
    sent = queued(store, ada, "x@example.org", DeliveryState.SENT)
    bobs = queued(store, bob, "x@example.org", DeliveryState.QUEUED)

    clients.remove(store, ada, "x@example.org")

    assert emails(store, ada) == []
    assert emails(store, bob) == ["x@example.org"]
    with store.read() as db:
        states = [db.get_one(Delivery, each).state for each in (waiting, deferred, sent, bobs)]
    cancelled = DeliveryState.CANCELLED
    assert states == [cancelled, cancelled, DeliveryState.SENT, DeliveryState.QUEUED]
    assert clients.create(store, ada, email="x@example.org").id > 2, "the ledger remembers ids: none may come back"


def queued(store: Store, owner: Actor, address: str, state: DeliveryState) -> int:
    """A delivery in an open occurrence of a mailing of its own."""
    return ledger_rows.delivery(store, ledger_rows.occurrence(store, ledger_rows.mailing(store, owner)), address, state)


# Who may, and lists


def test_clients_are_their_owners_alone(store: Store, ada: Actor, manager: Actor, admin: Actor) -> None:
    clients.create(store, ada, email="x@example.org")

    assert emails(store, admin) == []
    for actor, refusal in ((manager, Denied), (ANONYMOUS, NotLoggedIn)):
        with pytest.raises(refusal):
            emails(store, actor)
        with pytest.raises(refusal):
            clients.show(store, actor, "1")
        with pytest.raises(refusal):
            clients.create(store, actor, email="y@example.org")
        with pytest.raises(refusal):
            importing.import_rows(store, actor, [], on_bad=print)


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


@pytest.mark.parametrize(
    ("page", "found"),
    [
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
    ],
)
def test_a_list_in_part_and_in_order(store: Store, some_clients: Actor, page: ListOptions, found: str) -> None:
    assert [email[0] for email in emails(store, some_clients, page)] == list(found)


@pytest.mark.parametrize(("sought", "found"), [("åse", "c"), ("ÅSE", "c"), ("žofie", "d")])
def test_a_search_knows_capitals_of_every_script(store: Store, some_clients: Actor, sought: str, found: str) -> None:
    assert [email[0] for email in emails(store, some_clients, ListOptions(search=sought))] == [found]


def test_a_list_by_tag(store: Store, some_clients: Actor) -> None:
    assert emails(store, some_clients, tag="vip") == ["c@example.org", "a@example.org"]
    assert emails(store, some_clients, ListOptions(search="bob"), tag=" vip ") == ["a@example.org"]
    assert emails(store, some_clients, tag="vi") == []


@pytest.mark.parametrize(
    "page", [ListOptions(sort="shoe size"), ListOptions(sort="--id"), ListOptions(search="\udcff")]
)
def test_a_list_that_can_not_be_made_is_refused(store: Store, ada: Actor, page: ListOptions) -> None:
    with pytest.raises(InvalidValue):
        emails(store, ada, page)


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
def test_a_sheet_is_read_however_it_is_written(store: Store, ada: Actor, data: str) -> None:
    result, bad = imported(store, ada, data)

    assert (result, bad) == (ImportResult(created=1), {})
    (made,) = clients.list_clients(store, ada, ListOptions())
    assert (made.email, made.name, made.comment, made.tags) == ("x@example.org", "Ada", "hi", ["a", "b"])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"name,comment\nAda,hi\n",
        b"ada@example.org,Ada\n",
        b"email,name,E-Mail\nx@example.org,Ada,y@example.org\n",
        b'email,"name\nx@example.org,Ada\n',
        "email,name\nx@example.org,Ada\n".encode("utf-16"),
        b"email,n\xe4me\nx@example.org,Ada\n",
        b"x" * 3_000_000,
    ],
    ids=["empty", "blank", "no-email", "no-header", "twice", "open-quote", "utf-16", "latin-1", "endless"],
)
def test_a_sheet_without_a_usable_first_line_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidValue):
        csv_files.read(opened(data))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_each_bad_row_is_named_by_the_line_it_begins_on(store: Store, ada: Actor, end: str) -> None:
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

    result, bad = imported(store, ada, end.encode().join(lines))

    assert sorted(bad) == [3, 7, 9, 10, 11, 14, 15, 16, 18]
    assert all(len(reason) < 200 for reason in bad.values())
    assert result == ImportResult(created=4, skipped=1, bad=9)
    assert emails(store, ada) == [f"{name}@example.org" for name in ("one", "two", "seven", "ten")]
    assert clients.show(store, ada, "two@example.org").comment == "a comment\nof three\nlines"


@pytest.mark.parametrize("cell", ['"open', '"op"en"', '"open ""', '"'])
def test_a_quote_that_is_never_closed_costs_its_own_row_only(store: Store, ada: Actor, cell: str) -> None:
    data = "email,name,comment\n" + f"bad@example.org,{cell}\n" + "".join(f"c{n}@example.org,N,\n" for n in range(50))

    result, bad = imported(store, ada, data)

    assert list(bad) == [2]
    assert result == ImportResult(created=50, bad=1)


def test_without_update_the_first_row_of_an_address_stands(store: Store, ada: Actor) -> None:
    clients.create(store, ada, email="old@example.org", name="Old", tags=["t"])

    result, _ = imported(store, ada, "email,name,tags\nOLD@example.org,New,u\nx@example.org,1,a\nX@EXAMPLE.ORG,2,b\n")

    assert result == ImportResult(created=1, skipped=2)
    listed = [(each.email, each.name, each.tags) for each in clients.list_clients(store, ada, ListOptions())]
    assert listed == [("old@example.org", "Old", ["t"]), ("x@example.org", "1", ["a"])]


def test_with_update_the_last_row_stands_and_columns_that_are_not_there_are_left_alone(
    store: Store, ada: Actor, bob: Actor
) -> None:
    clients.create(store, ada, email="old@example.org", name="Old", comment="kept", tags=["kept"])
    clients.create(store, bob, email="old@example.org", name="Bob's")
    clients.create(store, ada, email="other@example.org", name="Other", tags=["t"])

    result, _ = imported(store, ada, "email,name\nOLD@example.org,New\nx@example.org,1\nX@example.org,2\n", update=True)
    assert result == ImportResult(created=1, updated=2)
    result, _ = imported(store, ada, "email,tags\nother@example.org,\nx@example.org,a;b\n", update=True)
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


def test_an_imported_client_is_stored_like_one_that_was_created(store: Store, ada: Actor) -> None:
    clients.create(store, ada, email="a@example.org", name="A", tags=["t"])
    imported(store, ada, "email,name,tags\nb@example.org,B,t\n")

    with store.read() as db:
        stored = db.execute(text("SELECT length(created_at), typeof(name), comment, bad_at FROM client")).all()
    assert stored[0] == stored[1]
    first, second = clients.list_clients(store, ada, ListOptions())
    assert timedelta() < second.created_at - first.created_at < timedelta(minutes=1)


def test_an_import_goes_in_by_batches_and_counts_over_all_of_them(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "IMPORT_BATCH", 3)
    data = "email,tags\n" + "".join(f"c{n % 8}@example.org,t{n}\n" for n in range(10)) + "bad\n"
    seen: list[int] = []
    sheet = csv_files.read(opened(data.encode()))

    result = importing.import_rows(
        store, ada, sheet.rows, on_bad=lambda row: None, on_batch=lambda so_far: seen.append(so_far.created)
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


def test_what_is_exported_comes_back_as_it_was(store: Store, ada: Actor, bob: Actor) -> None:
    for number, (name, comment, tags) in enumerate(AWKWARD):
        clients.create(store, ada, email=f"=c{number}@example.org", name=name, comment=comment, tags=tags)
    exported = io.StringIO()

    assert csv_files.write(exported, clients.list_clients(store, ada, ListOptions())) == len(AWKWARD)
    result, bad = imported(store, bob, exported.getvalue())

    assert (result.created, bad) == (len(AWKWARD), {})
    assert words(store, bob) == words(store, ada)


def words(store: Store, actor: Actor) -> list[tuple[str, str, str, Sequence[str]]]:
    return [
        (each.email, each.name, each.comment, each.tags) for each in clients.list_clients(store, actor, ListOptions())
    ]


_texts = st.one_of(st.text(max_size=12), st.text("=+-@＝'\"\t\r\n;, aЖ\u2028\u202e", max_size=8))

_kept = _texts.filter(lambda text: "\r" not in text)


@pytest.mark.parametrize("form", [csv_files, jsonl_files])
@given(rows=st.lists(st.tuples(_texts, _texts, st.lists(_texts, max_size=3)), max_size=6))
def test_what_may_be_kept_comes_back_as_it_was(form: ModuleType, rows: list[tuple[str, str, list[str]]]) -> None:
    now, kept = datetime.now(UTC), []
    for number, (name, comment, tags) in enumerate(rows):
        with suppress(InvalidValue):
            kept.append(clients.checked_client(f"-c{number}@example.org", name, comment, tags))
    written = io.StringIO()

    form.write(written, [ClientInfo(1, p.email, p.name, p.comment, list(p.tags), now, None, None) for p in kept])
    read = [row for row in form.read(opened(written.getvalue().encode())).rows if isinstance(row, ClientRow)]

    assert [clients.checked_client(row.email, row.name, row.comment, row.tags) for row in read] == kept


@given(rows=st.lists(st.tuples(_kept, _kept, st.lists(_kept, max_size=3)), max_size=6))
def test_no_cell_runs_in_a_spreadsheet(rows: list[tuple[str, str, list[str]]]) -> None:
    written = io.StringIO()
    csv_files.write(written, [ClientInfo(1, "=c@x", *row, datetime.now(UTC), None, None) for row in rows])
    for cells in csv.reader(io.StringIO(written.getvalue(), newline="")):
        assert not any(cell.startswith(("=", "+", "-", "@", "＝", "\t", "\r", "\n")) for cell in cells)


@settings(max_examples=200, deadline=None)
@given(
    junk=st.lists(
        st.one_of(st.binary(max_size=20), st.text(string.punctuation + "\r\t a", max_size=20).map(str.encode)),
        max_size=8,
    )
)
def test_no_bytes_break_the_reader_or_cost_a_good_line(junk: list[bytes]) -> None:
    good = [b"c%d@example.org,Good," % number for number in range(len(junk) + 1)]
    lines = [line for pair in zip(good, junk, strict=False) for line in pair] + good[len(junk) :]
    data = b"email,name,comment\n" + b"\n".join(lines)

    rows = list(csv_files.read(opened(data)).rows)

    found = {row.email for row in rows if isinstance(row, ClientRow)}
    unclosed = any(b'"' in each for each in junk)
    assert unclosed or {line.partition(b",")[0].decode() for line in good} <= found
    assert [row.line for row in rows] == sorted({row.line for row in rows})


def test_a_sheet_names_the_columns_it_leaves_out() -> None:
    sheet = csv_files.read(opened(b"Phone,email,,Tags\n1,x@example.org,,\n"))

    assert (sheet.columns, sheet.others) == (["email", "tags"], ["phone"])
