"""Test custom fields of clients: their values, types, import and export."""

import io
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from skychimp.errors import Conflict, InvalidValue, NotFound
from skychimp.fields import MAX_FIELDS, Field, FieldValue, dump_fields, format_value, type_of_text
from skychimp.models import Client, ClientField, FieldType
from skychimp.permissions import Actor
from skychimp.services.clients import clients, fields, importing
from skychimp.services.clients.fields import FieldInfo
from skychimp.services.clients.files import csv_files, jsonl_files
from skychimp.services.clients.files.column_mapping import ColumnChoice, parse_choice
from skychimp.services.clients.importing import ImportResult, InvalidRow
from skychimp.services.listing import ListOptions
from skychimp.store.clients import client_import
from skychimp.store.clients import fields as store_fields
from skychimp.store.clients.client_import import NewClient
from skychimp.store.database import Store

TEXT, NUMBER, BOOLEAN, DATE = FieldType.TEXT, FieldType.NUMBER, FieldType.BOOLEAN, FieldType.DATE


def import_text(
    store: Store, actor: Actor, text: str, module: ModuleType = csv_files, *, update: bool = False, **choice: Any
) -> tuple[ImportResult, dict[int, str]]:
    """Import a file, and return the result and the reason of each bad row by its line."""
    parsed = module.read(io.StringIO(text, newline=""), ColumnChoice(**choice))
    bad: dict[int, str] = {}
    result = importing.import_rows(
        store,
        actor,
        parsed.rows,
        fields=parsed.fields,
        update_columns=parsed.columns if update else (),
        on_rejected=lambda row: bad.update({row.line: row.reason}),
    )
    return result, bad


def _fail(row: InvalidRow) -> None:
    pytest.fail(row.reason)


def values_of(store: Store, actor: Actor) -> dict[str, Mapping[str, FieldValue]]:
    return {each.email: each.fields for each in clients.list_clients(store, actor, ListOptions())}


def types_of(store: Store, actor: Actor) -> dict[str, FieldType]:
    return {each.name: each.type for each in fields.list_fields(store, actor)}


def test_fields_are_set_changed_and_removed(store: Store, ada: Actor) -> None:
    given = {"city": "Riga", "visits": "3", "vip": "true", "born": "2001-02-03", "zip": "007", "none": ""}
    with pytest.raises(InvalidValue, match="unknown field none"):
        clients.create(store, ada, email="a@x.org", fields=given)
    del given["none"]

    created = clients.create(store, ada, email="a@x.org", fields=given)
    assert created.fields == {"city": "Riga", "visits": 3, "vip": True, "born": "2001-02-03", "zip": "007"}

    changed = clients.change(store, ada, "a@x.org", name="A", fields={"CITY": "", "visits": "4.5", "Plan": "gold"})
    assert changed.fields == {"visits": 4.5, "vip": True, "born": "2001-02-03", "zip": "007", "Plan": "gold"}
    assert clients.change(store, ada, "a@x.org", comment="c").fields == changed.fields
    assert types_of(store, ada) == {
        "born": DATE, "city": TEXT, "Plan": TEXT, "vip": BOOLEAN, "visits": NUMBER, "zip": TEXT,
    }  # fmt: skip


def test_fields_of_several_clients_are_changed_together_or_not_at_all(store: Store, ada: Actor) -> None:
    for name in "ab":
        clients.create(store, ada, email=f"{name}@x.org", fields={"city": "Riga"})

    with pytest.raises(InvalidValue):
        clients.change_several(store, ada, ["a@x.org", "b@x.org"], fields={"city": "Oslo", "bad name": "1"})
    assert values_of(store, ada) == {"a@x.org": {"city": "Riga"}, "b@x.org": {"city": "Riga"}}

    changes = clients.change_several(store, ada, ["a@x.org", "b@x.org"], fields={"city": "Oslo", "size": "1"})
    assert [each.new.fields for each in changes] == [{"city": "Oslo", "size": 1}] * 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"visits": "many"}, '"many" is not a number'),
        ({"city": "x" * 1_001}, "longer than 1,000"),
        ({"a b": "1"}, "invalid field name"),
        ({"city": "1", "City": "2"}, "given twice"),
        ({"city": "\x1b"}, "control character"),
    ],
)
def test_invalid_values_change_nothing(store: Store, ada: Actor, given: Mapping[str, str], message: str) -> None:
    clients.create(store, ada, email="a@x.org", fields={"visits": "1", "city": "Riga"})

    with pytest.raises(InvalidValue) as caught:
        clients.change(store, ada, "a@x.org", fields={"new": "1", **given})

    assert message in caught.value.message
    assert types_of(store, ada) == {"city": TEXT, "visits": NUMBER}


def test_each_user_has_own_fields_and_not_too_many(store: Store, ada: Actor, bob: Actor) -> None:
    many = {f"f{number}": "1" for number in range(MAX_FIELDS)}
    clients.create(store, ada, email="a@x.org", fields=many)
    clients.create(store, bob, email="b@x.org", fields={"f0": "text"})

    with pytest.raises(InvalidValue, match="too many fields: 101"):
        clients.change(store, ada, "a@x.org", fields={"one_more": "1"})

    assert fields.list_fields(store, bob) == [FieldInfo("f0", TEXT, 1)]
    assert fields.show(store, ada, "F7") == FieldInfo("f7", NUMBER, 1)
    with pytest.raises(NotFound):
        fields.show(store, bob, "f1")


def test_type_is_changed_if_all_values_fit(store: Store, ada: Actor) -> None:
    for number, zip_code in enumerate(["10115", "20095", "x1"]):
        clients.create(store, ada, email=f"{number}@x.org", fields={"zip": zip_code} if number < 2 else {"street": "S"})

    assert fields.change_type(store, ada, "ZIP", TEXT) == FieldInfo("zip", TEXT, 2)
    assert [each.get("zip") for each in values_of(store, ada).values()] == ["10115", "20095", None]
    clients.change(store, ada, "2@x.org", fields={"zip": "01067"})

    with pytest.raises(Conflict, match='1 value of the field zip is no number, such as "01067"'):
        fields.change_type(store, ada, "zip", NUMBER)
    assert types_of(store, ada)["zip"] == TEXT
    clients.change(store, ada, "2@x.org", fields={"zip": ""})
    fields.change_type(store, ada, "zip", NUMBER)
    assert [each.get("zip") for each in values_of(store, ada).values()] == [10115, 20095, None]


def test_import_types_columns_by_all_their_values(store: Store, ada: Actor) -> None:
    text = (
        "email,Postal code,visits,vip,since,empty,phone\n"
        "a@x.org,10115,3,true,2024-01-31,,+371 2\n"
        "b@x.org,01067,,false,,,\n"
    )

    result, bad = import_text(store, ada, text)

    assert (result.created, bad) == (2, {})
    assert types_of(store, ada) == {
        "phone": TEXT, "Postal_code": TEXT, "since": DATE, "vip": BOOLEAN, "visits": NUMBER,
    }  # fmt: skip
    assert values_of(store, ada) == {
        "a@x.org": {"Postal_code": "10115", "visits": 3, "vip": True, "since": "2024-01-31", "phone": "+371 2"},
        "b@x.org": {"Postal_code": "01067", "vip": False},
    }


def test_known_types_count_in_an_import_and_values_that_do_not_fit_are_bad_rows(store: Store, ada: Actor) -> None:
    clients.create(store, ada, email="old@x.org", fields={"visits": "1", "zip": "007"})

    result, bad = import_text(
        store, ada, f"email,Visits,ZIP\na@x.org,2,10115\nb@x.org,two,1\nc@x.org,3,{'9' * 1_001}\n"
    )

    assert (result.created, result.bad) == (1, 2)
    assert bad[3].startswith('"two" is not a number (field visits)')
    assert "longer than 1,000 characters" in bad[4]
    assert values_of(store, ada)["a@x.org"] == {"visits": 2, "zip": "10115"}


@pytest.mark.parametrize("module", [csv_files, jsonl_files])
def test_update_changes_the_fields_of_the_file_and_keeps_others(store: Store, ada: Actor, module: ModuleType) -> None:
    clients.create(store, ada, email="a@x.org", fields={"city": "Riga", "visits": "1", "vip": "true", "pi": "3.14"})
    csv = "email,city,visits\na@x.org,,2\nnew@x.org,Oslo,\n"
    jsonl = '{"email": "a@x.org", "city": null, "visits": 2}\n{"email": "new@x.org", "city": "Oslo", "visits": ""}\n'

    text = csv if module is csv_files else jsonl
    assert import_text(store, ada, text, module)[0].skipped == 1
    assert values_of(store, ada)["a@x.org"]["city"] == "Riga"
    result, _ = import_text(store, ada, text, module, update=True)

    assert result.updated == 2
    assert values_of(store, ada) == {
        "a@x.org": {"visits": 2, "vip": True, "pi": 3.14},
        "new@x.org": {"city": "Oslo"},
    }


def test_columns_are_mapped_to_fields(store: Store, ada: Actor) -> None:
    choice = parse_choice(["Town=fields.city", "zip = fields.zip:text", "Name=fields.nick"], ["secret"])

    parsed = csv_files.read(io.StringIO("email,Town,zip,city,Name,secret\na@x.org,Riga,10115,x,A,1\n"), choice)

    assert parsed.fields == {
        "Town": Field("city", TEXT), "zip": Field("zip", TEXT), "Name": Field("nick", TEXT),
    }  # fmt: skip
    assert parsed.ignored_columns == ["city"]
    (row,) = parsed.rows
    importing.import_rows(store, ada, [row], fields=parsed.fields, on_rejected=_fail)
    assert values_of(store, ada) == {"a@x.org": {"city": "Riga", "zip": "10115", "nick": "A"}}


@pytest.mark.parametrize("target", ["fields.", "fields.a b", "fields.a:date:x", "fields.a:zip", "field.a"])
def test_invalid_targets_are_refused(target: str) -> None:
    with pytest.raises(InvalidValue):
        parse_choice([f"Town={target}"], [])


def test_json_lines_have_objects_of_fields(store: Store, ada: Actor) -> None:
    lines = [
        '{"email": "a@x.org", "fields": {"zip:text": "1", "n": 1}, "attribs": {"City Name": "Riga", "tags": ["x"]}}',
        '{"email": "b@x.org", "fields": {"n": 2.50}, "uuid": "u", "n": 5}',
        '{"email": "c@x.org", "fields": 5}',
    ]

    result, bad = import_text(store, ada, "\n".join(lines), jsonl_files)

    assert (result.created, bad) == (2, {3: '"fields" is not a JSON object'})
    assert values_of(store, ada) == {
        "a@x.org": {"zip": "1", "n": 1, "City_Name": "Riga", "tags": '["x"]'},
        "b@x.org": {"n": 2.5},
    }


def test_too_many_columns_import_nothing(store: Store, ada: Actor) -> None:
    names = [f"c{number}" for number in range(MAX_FIELDS + 1)]
    with pytest.raises(InvalidValue, match="too many fields"):
        import_text(store, ada, f"email,{','.join(names)}\na@x.org,{','.join(names)}\n")
    assert not values_of(store, ada)


def test_import_stops_if_the_type_of_a_field_changes_meanwhile(store: Store, ada: Actor) -> None:
    parsed = csv_files.read(io.StringIO("email,n\na@x.org,1\n"))

    def rows() -> Any:
        clients.create(store, ada, email="b@x.org", fields={"n": "text"})
        yield from parsed.rows

    with pytest.raises(Conflict):
        importing.import_rows(store, ada, rows(), fields=parsed.fields, on_rejected=_fail)


NAMES = ["city", "zip", "name", "status", "work_email", "Größe", "attributes", "uuid", "lists", "_x", "fields"]
VALUES = {
    TEXT: st.one_of(
        st.sampled_from(["12", "007", "true", "2024-02-29", "=1", "'x", "-5", "a;b", "1.50"]), st.text(max_size=5)
    ),
    NUMBER: st.one_of(st.integers(-(2**53), 2**53), st.floats(-1e9, 1e9)).filter(
        lambda number: type_of_text(format_value(number)) == NUMBER
    ),
    BOOLEAN: st.booleans(),
    DATE: st.dates().map(str),
}


@st.composite
def people(draw: st.DrawFn) -> tuple[dict[str, FieldType], list[dict[str, FieldValue]]]:
    types = draw(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(list(FieldType)), max_size=4))
    some: list[dict[str, FieldValue]] = []
    for _ in range(draw(st.integers(1, 3))):
        values = {name: draw(st.none() | VALUES[types[name]]) for name in types}
        some.append({name: value for name, value in values.items() if value is not None and _is_valid(value)})
    return types, some


def _is_valid(value: FieldValue) -> bool:
    return not isinstance(value, str) or (value.strip() == value != "" and value.isprintable())


@pytest.mark.parametrize("examples", [20, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("module", [csv_files, jsonl_files])
def test_export_and_import_give_the_same_fields(
    store: Store, ada: Actor, bob: Actor, module: ModuleType, examples: int
) -> None:
    @settings(max_examples=examples, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(people())
    def check(drawn: tuple[dict[str, FieldType], list[dict[str, FieldValue]]]) -> None:
        types, values = drawn
        with store.write() as db:
            db.execute(delete(Client.__table__))
            db.execute(delete(ClientField.__table__))
            store_fields.register(db.connection(), ada.user_id, [Field(*each) for each in types.items()])
            new = [
                NewClient(f"c{number}@x.org", f"c{number}@x.org", "", "", (), dump_fields(each))
                for number, each in enumerate(values)
            ]
            client_import.add_clients(db.connection(), ada.user_id, new, ())
        exported = io.StringIO()
        module.write(exported, clients.export(store, ada))

        _, bad = import_text(store, bob, exported.getvalue(), module)

        assert not bad
        assert values_of(store, bob) == values_of(store, ada)
        assert [list(map(type, each.values())) for each in values_of(store, ada).values()] == [
            list(map(type, (each[name] for name in values_of(store, ada)[email])))
            for email, each in values_of(store, bob).items()
        ]
        used = {name for each in values for name in each}
        assert types_of(store, bob) == {name: types[name] for name in sorted(used, key=str.casefold)}

    check()
