"""The examples of the help topics on queries and audiences work as they are written."""

import re
import shlex

import pytest
from sqlalchemy import insert
from support.command import Home
from support.queue_steps import create_client, create_mailing, write

from skychimp.cli.commands import help  # noqa: A004
from skychimp.models import ClientField, FieldType
from skychimp.permissions import Actor
from skychimp.store.database import Store

FIELDS = {
    "city": FieldType.TEXT,
    "age": FieldType.NUMBER,
    "birthday": FieldType.DATE,
    "paid": FieldType.BOOLEAN,
}


def examples(topic: str) -> list[str]:
    """Return the lines of the topic's ten examples."""
    text = (help.TOPICS / f"{topic}.md").read_text(encoding="utf-8")
    found = re.search(r"## Ten examples\n\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1].splitlines()


@pytest.fixture
def small_home(store: Store, ada: Actor, home: Home) -> Home:
    """Return Ada's command line, and a store with fields, two clients, and mailings 1 to 7."""
    fields = [{"owner_id": ada.user_id, "key": name, "name": name, "type": kind} for name, kind in FIELDS.items()]
    write(store, lambda db: db.execute(insert(ClientField), fields))
    create_client(store, ada, "ann", tags=["vip"], fields='{"city": "Riga", "age": 30, "paid": true}')
    create_client(store, ada, "ben", tags=["vip", "old"], fields='{"birthday": "1995-05-05"}')
    for _ in range(7):
        create_mailing(store, ada)
    return home


def test_queries_of_the_topic_choose_clients(small_home: Home) -> None:
    chosen = {query: small_home.call("clients", "list", "--where", query, "--json") for query in examples("queries")}

    assert len(chosen) == 10
    assert {query: done.err for query, done in chosen.items() if done.status != 0} == {}
    names = {query: [client["name"] for client in done.json] for query, done in chosen.items()}
    assert names["tag = 'vip'"] == ["Ann", "Ben"]
    assert names["tag IN ('vip', 'gold') AND NOT tag = 'old'"] == ["Ann"]
    assert names["fields.city LIKE 'r%' OR fields.city IS NULL"] == ["Ann", "Ben"]
    assert names["fields.birthday BETWEEN '1990-01-01' AND '1999-12-31'"] == ["Ben"]
    assert names["NOT got(7)"] == ["Ann", "Ben"]


def test_commands_of_the_topic_on_audiences_run(small_home: Home) -> None:
    assert small_home.call("segments", "create", "regulars", "--where", "tag = 'vip'").status == 0
    done = {line: small_home.call(*shlex.split(line)[1:]) for line in examples("audience")}

    assert len(done) == 10
    assert {line: result.err for line, result in done.items() if result.status != 0} == {}
    assert done["skychimp mailings audience weekly"].out == "ann@example.org\t\nben@example.org\t\n"
    audience = "clients in segment regulars except those where got(1, '-7d')"
    assert f"audience\t{audience}\n" in done["skychimp mailings show weekly"].out
