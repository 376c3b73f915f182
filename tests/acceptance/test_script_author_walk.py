"""The author of a script tries it line by line: JSON through pipes, exit statuses, and schemas to check them with."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support.command import PROGRAM
from support.debian_servers import free_port
from support.json_schemas import find_command
from support.storing_server import StoringHandler, storing_server
from support.tmux import open_window
from support.walks import Walk, needs_tmux, server_settings

CLIENTS = 1_000
BAD_ROW = "nobody,No Address,\n"
MAILING = "--start now --every once --all-clients"

pytestmark = [pytest.mark.recorded, pytest.mark.timeout(600), needs_tmux]


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="walk-") as name:
        folder = Path(name)
        rows = "".join(f"c{number}@example.org,Client {number},{number % 7}\n" for number in range(CLIENTS))
        (folder / "people.csv").write_text(f"email,name,tags\n{rows}{BAD_ROW}", encoding="utf-8")
        yield folder


class Script:
    """Lines of a script, typed one by one. No command has a terminal."""

    def __init__(self, walk: Walk, folder: Path) -> None:
        self.schemas: dict[str, Any] = {}
        self._walk = walk
        self._folder = folder

    def run(self, arguments: str, status: int = 0, before: str = "") -> Any:
        """Run a command, and return the JSON value that it prints, or its error. Both are as their schemas say."""
        stdin = "" if before.endswith("| ") else " </dev/null"
        command = f"{before}skychimp {arguments} --json{stdin} 2>errors | tee output | tail -8 | cut -c -79"
        self._walk.run(command, status=status)
        output, errors = ((self._folder / name).read_text(encoding="utf-8") for name in ("output", "errors"))
        if status in (0, 75):
            return self._checked(find_command(arguments.split()), output)
        assert output == ""
        self._walk.run("cat errors")
        return self._checked("error", errors)["error"]

    def _checked(self, name: str | None, text: str) -> Any:
        value = json.loads(text)
        if name in self.schemas:
            Draft202012Validator(self.schemas[name]).validate(value)
        return value


def test_author_of_a_script_needs_no_terminal(folder: Path, records: Path) -> None:
    environ = {"HOME": str(folder), "PATH": f"{PROGRAM.parent}:/usr/bin:/bin", "SKYCHIMP_RUN__PATIENCE": "0s"}
    port, mail = free_port(), StoringHandler()
    with open_window(environ, folder) as window:
        walk = Walk("script author", window, mail)
        script = Script(walk, folder)
        with walk.recorded(records):
            walk.run(f"set -o pipefail; export {server_settings(port)}")
            with storing_server(port, mail):
                prepare(script)
                sent = script.run(f"mailings create --message 1 {MAILING}")
                assert (sent["run"]["sent"], sent["status"]) == (CLIENTS, "completed")
                assert {email.recipients[0] for email in mail.emails} == {f"c{n}@example.org" for n in range(CLIENTS)}
                assert mail.emails[0].message["Subject"].startswith("Hello Client ")
                look_back(script)
                fail(script)
            leave_queued(script)


def prepare(script: Script) -> None:
    created = script.run("init --email script@example.org --sender 'News <news@example.org>'")
    assert created["role"] == "admin"
    script.schemas = script.run("help schemas")
    assert {"clients import", "mailings create", "run", "error"} < script.schemas.keys()
    imported = script.run("clients import people.csv")
    assert (imported["created"], imported["bad"]) == (CLIENTS, 1)
    text = "printf 'Dear {{ client.name }},\\n\\nhere is our news.\\n' | "
    message = script.run("messages create --subject 'Hello {{ client.name }}' --body-file -", before=text)
    assert message["id"] == 1


def look_back(script: Script) -> None:
    """Nothing has to be parsed but JSON, to know what became of each email."""
    assert script.run("report 1")["deliveries"] == CLIENTS
    log = script.run("mailings log 1")
    assert len(log) == CLIENTS
    assert {row["reply"] for row in log} == {"250 2.0.0 stored"}
    assert len(script.run("clients list --where \"tag = '3'\"")) == len(range(3, CLIENTS, 7))
    assert script.run("status")["ok"]
    assert script.run("run")["sent"] == 0


def fail(script: Script) -> None:
    """Each error has a code and a hint, and its exit status is as `help exit-statuses` says."""
    assert script.run("clients show 99999", status=4)["code"] == "not_found"
    assert script.run(f"mailings create --message 2 {MAILING}", status=4)["code"] == "not_found"
    assert script.run("clients create --email nobody", status=2)["code"] == "invalid_value"
    assert script.run("clients create --email c1@example.org", status=6)["code"] == "conflict"
    assert script.run("messages delete 1 --yes", status=6)["hint"]
    assert script.run("clients list", status=5, before="SKYCHIMP_TOKEN=wrong ")["code"] == "not_logged_in"


def leave_queued(script: Script) -> None:
    """Without a mail server, `run` says by its status that it has to be run again."""
    script.run(f"mailings create --message 1 {MAILING} --no-send")
    assert script.run("run", status=75)["queued"] == CLIENTS
