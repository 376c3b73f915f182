"""Record, import, show, require and erase consents by the commands."""

from collections.abc import Sequence

import pytest
from support.command import CommandResult, Home
from support.contents import contains
from support.queue_steps import create_client, create_mailing, rows

from skychimp.models import Consent
from skychimp.permissions import Actor
from skychimp.services.clients import importing
from skychimp.store.database import Store

ANN, BEN, CAT = "ann@example.org", "ben@example.org", "cat@example.org"
NEWS = ("--consent", "news 2026")
MAILCHIMP = "Email Address,MEMBER_RATING,OPTIN_TIME,CONFIRM_TIME,LEID,EUID\n"
REQUIRED = {"SKYCHIMP_DELIVERY__REQUIRE_CONSENT": "true"}


def consents_of(home: Home, client: str) -> list[tuple[str, str, str, str]]:
    """Return the consents of a client as `clients show` has them, the newest first."""
    shown = home.call("clients", "show", client, "--json").json
    assert shown["consent_at"] == (shown["consents"][0]["at"] if shown["consents"] else None)
    return [(one["at"][:16], one["wording"], one["source"], one["proof"]) for one in shown["consents"]]


def listed(home: Home) -> dict[str, str | None]:
    """Return when each client agreed."""
    clients = home.call("clients", "list", "--json").json
    return {row["email"].partition("@")[0]: row["consent_at"] and row["consent_at"][:16] for row in clients}


def import_text(home: Home, text: str, *options: str, name: str = "people.csv") -> CommandResult:
    (home.folder / name).write_text(text)
    return home.call("clients", "import", name, *options)


# By command


def test_consents_are_a_history(home: Home) -> None:
    create = ("clients", "create", "--email", ANN)
    proof = ("--consent-proof", "https://example.org/17")
    assert home.call(*create, *NEWS, "--consent-at", "2026-03-02T09:00+03:00", *proof).status == 0
    assert home.call("clients", "update", ANN, "--consent", "terms", "--consent-at", "2025-01-01 10:00").status == 0
    first = [
        ("2026-03-02T06:00", "news 2026", "command", "https://example.org/17"),
        ("2025-01-01T10:00", "terms", "command", ""),
    ]
    assert consents_of(home, ANN) == first
    home.call("clients", "create", "--email", BEN)
    updated = home.call("clients", "update", ANN, BEN, "--consent", "both", "--json").json
    assert all(row["consent_at"] for row in updated)
    assert [row[1:] for row in consents_of(home, ANN)] == [("both", "command", ""), *(row[1:] for row in first)]

    shown = home.call("clients", "show", ANN).out
    assert "2026-03-02 06:00 UTC: news 2026 (by command; https://example.org/17)" in shown


@pytest.mark.parametrize("at", ["00:00", "today", "3d", "now"])
def test_time_of_a_consent_is_in_the_past(home: Home, at: str) -> None:
    assert home.call("clients", "create", "--email", BEN, *NEWS, "--consent-at", at).status == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--consent", " "), "the consent is empty"),
        (("--consent", "x" * 1001), "is longer than 1,000 characters"),
        ((*NEWS, "--consent-at", "+1h"), "the consent is in the future"),
        ((*NEWS, "--consent-at", "soon"), 'invalid time "soon"'),
        ((*NEWS, "--consent-proof", "x" * 1001), "is longer than 1,000 characters"),
        ((*NEWS, "--consent-proof", "a\nb"), "the proof"),
        (("--consent-at", "now"), "--consent-at needs --consent"),
        (("--consent-proof", "x.pdf"), "--consent-proof needs --consent"),
    ],
)
def test_wrong_consent_changes_nothing(home: Home, options: Sequence[str], error: str) -> None:
    home.call("clients", "create", "--email", BEN)
    for command in (("create", "--email", ANN), ("update", BEN)):
        done = home.call("clients", *command, *options)
        assert (done.status, done.out) == (2, "")
        assert done.err.startswith("error: ")
        assert error in done.err
    assert import_text(home, f"email\n{CAT}\n", *options).status == 2
    assert listed(home) == {"ben": None}


def test_consent_belongs_to_the_address(home: Home) -> None:
    home.call("clients", "create", "--email", ANN, *NEWS, "--consent-at", "2026-03-02 09:00")
    home.call("clients", "delete", ANN, "--yes")
    assert [row["wording"] for row in home.call("clients", "consents", ANN, "--json").json] == ["news 2026"]
    home.call("clients", "create", "--email", ANN)
    assert listed(home) == {"ann": "2026-03-02T09:00"}
    home.call("clients", "update", ANN, "--email", BEN)
    assert listed(home) == {"ben": None}
    home.call("clients", "update", BEN, "--email", ANN.upper())
    assert listed(home) == {"ANN": "2026-03-02T09:00"}
    home.call("clients", "delete", ANN, "--yes")
    import_text(home, f"email\n{ANN}\n")
    assert listed(home) == {"ann": "2026-03-02T09:00"}


def test_forgotten_person_has_no_consent_and_the_proof_stays(home: Home, store: Store) -> None:
    options = (*NEWS, "--consent-at", "2026-03-02 09:00", "--consent-proof", "ann-lovelace.pdf")
    home.call("clients", "create", "--email", ANN, *options)
    home.call("clients", "delete", ANN, "--yes")  # her consents are a record of her
    assert home.call("clients", "forget", ANN, "--yes").status == 0

    assert not contains(store, "ann-lovelace")
    assert not contains(store, ANN)
    (proof,) = home.call("clients", "consents", ANN, "--json").json
    assert (proof["wording"], proof["proof"], bool(proof["forgotten_at"])) == ("news 2026", "", True)
    (exported,) = home.call("users", "export", "--json").json["consents"]
    assert (exported["email"], exported["wording"]) == (None, "news 2026")
    import_text(home, f"email,consent_at,consent\n{ANN},2026-03-02 09:00,news 2026\n")
    assert (listed(home), consents_of(home, ANN)) == ({"ann": None}, [])
    assert home.call("clients", "forget", ANN, "--yes").status == 0
    assert home.call("clients", "forget", ANN, "--yes").status == 4


def test_unknown_address_has_no_consents(home: Home) -> None:
    done = home.call("clients", "consents", ANN)
    assert (done.status, done.err.splitlines()[0]) == (4, f"error: no consent of {ANN} is recorded")


# By import

CSV_ROWS: dict[str, tuple[str, Sequence[str], str, list[tuple[str, str, str, str]] | str]] = {
    "all columns": (
        "email,consent_at,consent,consent_proof",
        (),
        f"{ANN},2026-03-02T12:00+03:00,terms,form.pdf",
        [("2026-03-02T09:00", "terms", "import", "form.pdf")],
    ),
    "a time in UTC": (
        "email,consent_at",
        (),
        f"{ANN},2026-03-02 09:00:30",
        [("2026-03-02T09:00", 'imported from column "consent_at"', "import", "")],
    ),
    "a date, and words for all": (
        "email,consent_at",
        (*NEWS, "--consent-proof", "x.pdf"),
        f"{ANN},2026-03-02",
        [("2026-03-02T00:00", "news 2026", "import", "x.pdf")],
    ),
    "a time for all": (
        "email,consent_at",
        (*NEWS, "--consent-at", "2026-03-01 10:00"),
        f"{ANN},",
        [("2026-03-01T10:00", "news 2026", "import", "")],
    ),
    "mapped": (
        "email,Joined,Terms",
        ("--map", "Joined=consent_at", "--map", "Terms=consent"),
        f"{ANN},2026-03-02,v2",
        [("2026-03-02T00:00", "v2", "import", "")],
    ),
    "no time": ("email,consent_at,consent", (), f"{ANN},0000-00-00,terms", []),
    "a no": ("email,consent_at,consent", NEWS, f"{ANN},2026-03-02,No", []),
    "no column of the time": ("email,consent,consent_proof", (), f"{ANN},yes,x", []),
    "no words": ("email,consent_at,consent", (), f"{ANN},,", []),
    "a wrong time": ("email,consent_at", (), f"{ANN},02/03/2026", "line 2: invalid time of consent"),
    "no such day": ("email,consent_at", (), f"{ANN},2026-02-30", "line 2: invalid time of consent"),
    "the year 1": ("email,consent_at", (), f"{ANN},0001-01-01T00:00+14:00", "line 2: invalid time of consent"),
    "a future time": ("email,consent_at", (), f"{ANN},2999-01-01", "line 2: the consent is in the future"),
    "a long proof": ("email,consent_at,consent_proof", (), f"{ANN},2026-03-02,{'x' * 1001}", 'line 2: the proof "'),
    "a control character": ("email,consent_at,consent", (), f"{ANN},2026-03-02,a\x07b", "line 2: the consent"),
}


@pytest.mark.parametrize("kind", CSV_ROWS)
def test_consents_in_csv(home: Home, kind: str) -> None:
    header, options, row, expected = CSV_ROWS[kind]
    done = import_text(home, f"{header}\n{row}\n", *options)
    if isinstance(expected, str):
        assert (done.status, listed(home)) == (2, {})
        assert done.err.startswith(expected)
    else:
        assert (done.status, consents_of(home, ANN)) == (0, expected), done.err


def test_consents_in_json_lines(home: Home) -> None:
    lines = [
        f'{{"email": "{ANN}", "consent_at": "2026-03-02T09:00Z", "consent": "terms"}}',
        f'{{"email": "{BEN}", "consent_at": null, "consent": null}}',
        f'{{"email": "{CAT}", "consent_at": 5, "consent": "x"}}',
    ]
    done = import_text(home, "\n".join(lines), name="people.jsonl")
    assert listed(home) == {"ann": "2026-03-02T09:00", "ben": None}
    assert done.err.startswith("line 3: consent_at, consent, consent_proof must be strings\n")


def test_mailchimp_says_who_has_signed_up(home: Home) -> None:
    """Mailchimp sets the time of the confirmation also for contacts that somebody has added."""
    signed_up, added = ",2,2024-01-01 10:00:00,2024-01-01 10:05:00,1,a", ",2,,2024-01-01 10:05:00,2,b"
    done = import_text(home, f"{MAILCHIMP}{ANN}{signed_up}\n{BEN}{added}\n")
    assert 'consents are taken from "OPTIN_TIME"' in done.err
    assert listed(home) == {"ann": "2024-01-01T10:00", "ben": None}
    assert consents_of(home, ANN) == [("2024-01-01T10:00", "signed up in Mailchimp", "import", "")]


@pytest.mark.parametrize("batch", [1, 10_000])
def test_existing_clients_get_a_consent_with_update_only(
    home: Home, store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(importing, "IMPORT_BATCH", batch)
    create_client(store, ada, "ann")
    rows_ = f"{ANN},2026-03-02\n{BEN},2026-03-03\n{BEN},2026-03-04\n"
    for _ in range(2):
        import_text(home, f"email,consent_at\n{rows_}")
        assert listed(home) == {"ann": None, "ben": "2026-03-03T00:00"}
        assert len(rows(store, Consent)) == 1
    for _ in range(2):
        import_text(home, f"email,consent_at\n{rows_}", "--update")
        assert listed(home) == {"ann": "2026-03-02T00:00", "ben": "2026-03-04T00:00"}
        assert len(rows(store, Consent)) == 3


@pytest.mark.parametrize("name", ["people.csv", "people.jsonl"])
def test_export_without_consents_has_no_columns_of_them(home: Home, name: str) -> None:
    home.call("clients", "create", "--email", ANN)
    home.call("clients", "export", name)
    assert "consent" not in (home.folder / name).read_text()


@pytest.mark.parametrize("name", ["people.csv", "people.jsonl"])
def test_exported_consents_are_imported_unchanged(home: Home, store: Store, name: str) -> None:
    home.call("clients", "create", "--email", ANN, "--consent", '=1+1, "новости"', "--consent-proof", "+x.pdf")
    home.call("clients", "create", "--email", BEN, *NEWS, "--consent-at", "2026-03-02 09:00")
    home.call("clients", "create", "--email", CAT)
    before = home.call("clients", "list", "--json").json
    kept = [consents_of(home, email) for email in (ANN, BEN, CAT)]
    home.call("clients", "export", name)
    first = (home.folder / name).read_text().splitlines()[0]
    assert first.startswith("email,name,comment,tags,consent_at,consent,consent_proof" if name.endswith("csv") else "{")

    for email in (ANN, BEN, CAT):
        home.call("clients", "delete", email, "--yes")
    with store.write() as db:
        for consent in rows(store, Consent):
            db.delete(db.get_one(Consent, consent.id))
    assert home.call("clients", "import", name).status == 0
    after = home.call("clients", "list", "--json").json
    assert [row["consent_at"] for row in after] == [row["consent_at"] for row in before]
    again = [consents_of(home, email) for email in (ANN, BEN, CAT)]
    assert again == [[(at, words, "import", proof) for at, words, _, proof in one] for one in kept]


# A required consent


def test_required_consent_leaves_clients_out_and_is_counted(home: Home, store: Store, ada: Actor) -> None:
    home.environ |= REQUIRED
    home.call("clients", "create", "--email", ANN, *NEWS)
    home.call("clients", "create", "--email", BEN)
    mailing = str(create_mailing(store, ada))

    left_out = home.call("mailings", "audience", mailing, "--left-out", "--json").json
    assert left_out == [{"email": BEN, "left_out": "no consent is recorded"}]
    shown = home.call("mailings", "show", mailing, "--json").json
    left_out = {"suppressed": 0, "bad_address": 0, "no_consent": 1, "excluded": 0}
    assert (shown["recipients"], shown["left_out"]) == (1, left_out)
    assert "1 without a recorded consent" in home.call("mailings", "show", mailing).out
    assert "no consent is recorded" in home.call("why", BEN).out
    create = ("mailings", "create", "--message", "1", "--start", "now", "--every", "once", "--all-clients", "--no-send")
    assert home.call(*create).err.startswith("mailing 2 goes to 1 client\nleft out: 1 without a recorded consent\n")
    assert home.call("run", "--mailing", "2", "--json").json["outbox"] == 1
    assert [row["email"] for row in home.call("mailings", "log", "2", "--json").json] == [ANN]


@pytest.mark.parametrize(
    ("required", "with_consent", "found"),
    [
        ("false", 0, []),
        ("true", 0, ["2 of 2 clients have no recorded consent, and get no email"]),
        ("true", 1, ["1 of 2 clients have no recorded consent, and get no email"]),
        ("true", 2, ["a recorded consent is required, and all clients have one"]),
    ],
)
def test_doctor_counts_clients_without_a_consent(
    home: Home, required: str, with_consent: int, found: list[str]
) -> None:
    for number, email in enumerate((ANN, BEN)):
        home.call("clients", "create", "--email", email, *(NEWS if number < with_consent else ()))
    home.environ["SKYCHIMP_DELIVERY__REQUIRE_CONSENT"] = required
    findings = home.call("doctor", "--json").json["findings"]
    assert [one["found"] for one in findings if one["about"] == "consent"] == found
