"""Who may: every command, by every role, on what is one's own, somebody else's, and not there.

`MAY` is the table of the contract, and `WALK` has a line for each command: a new command is one line more.
"""

import hashlib
import importlib
import inspect
import pkgutil
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import pytest
from conftest import enrol
from support import ledger_rows
from support.command import Done, Home
from typer.main import get_command

from skychimp import services
from skychimp.cli.registry import COMMANDS
from skychimp.errors import NotLoggedIn
from skychimp.models import Client, DeliveryState, Format, Login, Mailing, Message, Outcome, Post, Role
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.store.database import Store
from skychimp.store.schema import create_store, open_store

ROLES = ("guest", "user", "manager", "editor", "admin")

# What becomes of a command, by whose object it is about.

DONE, MISSING, DENIED, LOGIN = "done", "missing", "denied", "log in"
WHOSE = ("own", "another's", "nobody's")
OWN = dict(zip(WHOSE, (DONE, MISSING, MISSING), strict=True))
ANY = dict(zip(WHOSE, (DONE, DONE, MISSING), strict=True))

# The same for what is done to users: to which of them.

WHOM = ("a user", "an editor", "a manager", "an admin", "oneself", "nobody")
LOWER = dict(zip(WHOM, (DONE, DONE, DENIED, DENIED, DENIED, MISSING), strict=True))
OTHERS = dict(zip(WHOM, (DONE, DONE, DONE, DONE, DENIED, MISSING), strict=True))
EVERYBODY = OTHERS | {"oneself": DONE}

NO = dict.fromkeys((*WHOSE, *WHOM), DENIED)
GUESTS = dict.fromkeys((*WHOSE, *WHOM), LOGIN)

MAY = {
    #                                   guest   user  manager editor admin
    "come and go": (ANY, ANY, ANY, ANY, ANY),
    "read the blog and the home page": (ANY, ANY, ANY, ANY, ANY),
    "own clients, messages, mailings": (GUESTS, OWN, NO, NO, OWN),
    "see any mailing and its message": (GUESTS, OWN, ANY, NO, ANY),
    "disable any mailing": (GUESTS, OWN, ANY, NO, ANY),
    "decide about unknown letters": (GUESTS, OWN, NO, NO, ANY),
    "see users": (GUESTS, NO, LOWER, NO, EVERYBODY),
    "block and unblock users": (GUESTS, NO, LOWER, NO, OTHERS),
    "give roles": (GUESTS, NO, NO, NO, OTHERS),
    "write posts": (GUESTS, NO, NO, ANY, ANY),
    "see the audit trail": (GUESTS, NO, NO, NO, ANY),
    "keep the store safe": (GUESTS, NO, NO, NO, ANY),
    "forget people everywhere": (GUESTS, NO, NO, NO, ANY),
    "one's own account and data": (GUESTS, ANY, ANY, ANY, ANY),
    "run the service": (ANY, ANY, ANY, ANY, ANY),
}

ELSEWHERE = None
"""In place of arguments: it needs no login, or makes one, and is called in other tests."""

SCHEDULE = "--start '2030-01-01 09:00' --every day"

WALK: list[tuple[str, str | None, str]] = [
    ("stats", "", "read the blog and the home page"),
    ("blog list", "", "read the blog and the home page"),
    ("blog show", "{post}", "read the blog and the home page"),
    ("help", "", "read the blog and the home page"),
    ("register", "--email new@example.org", "come and go"),
    ("verify", ELSEWHERE, "come and go"),
    ("login", ELSEWHERE, "come and go"),
    ("logout", "", "come and go"),
    ("password reset", ELSEWHERE, "come and go"),
    ("password change", "", "one's own account and data"),
    ("whoami", "", "one's own account and data"),
    ("clients create", "--email new@example.org", "own clients, messages, mailings"),
    ("clients list", "", "own clients, messages, mailings"),
    ("clients show", "{client}", "own clients, messages, mailings"),
    ("clients show", "{email}", "own clients, messages, mailings"),
    ("clients update", "{client} --name New", "own clients, messages, mailings"),
    ("clients delete", "{client} --yes", "own clients, messages, mailings"),
    ("clients forget", "{email} --yes", "own clients, messages, mailings"),
    ("clients forget", "{email} --yes --all-users", "forget people everywhere"),
    ("clients import", "people.csv", "own clients, messages, mailings"),
    ("clients export", "out.csv", "own clients, messages, mailings"),
    ("messages create", "--subject S --body B", "own clients, messages, mailings"),
    ("messages list", "", "see any mailing and its message"),
    ("messages show", "{message}", "see any mailing and its message"),
    ("messages update", "{message} --subject New", "own clients, messages, mailings"),
    ("messages delete", "{free} --yes", "own clients, messages, mailings"),
    ("messages preview", "{message}", "see any mailing and its message"),
    ("messages preview", "{my message} --client {client}", "own clients, messages, mailings"),
    ("messages test", "{message} --to me@example.org", "own clients, messages, mailings"),
    ("mailings create", "--message {message} --all-clients " + SCHEDULE, "own clients, messages, mailings"),
    ("mailings create", "--message {my message} --client {client} " + SCHEDULE, "own clients, messages, mailings"),
    ("mailings list", "", "see any mailing and its message"),
    ("mailings show", "{mailing}", "see any mailing and its message"),
    ("mailings update", "{mailing} --end 2031-01-01", "own clients, messages, mailings"),
    ("mailings update", "{my mailing} --message {message}", "own clients, messages, mailings"),
    ("mailings update", "{my mailing} --client {client}", "own clients, messages, mailings"),
    ("mailings duplicate", "{mailing}", "own clients, messages, mailings"),
    ("mailings delete", "{mailing} --yes", "own clients, messages, mailings"),
    ("mailings preview", "{mailing}", "see any mailing and its message"),
    ("mailings log", "{mailing}", "see any mailing and its message"),
    ("mailings disable", "{mailing}", "disable any mailing"),
    ("mailings enable", "{mailing}", "disable any mailing"),
    ("report", "{mailing}", "see any mailing and its message"),
    ("why", "{email}", "see any mailing and its message"),
    ("resolve", "", "decide about unknown letters"),
    ("resolve", "--sent {delivery}", "decide about unknown letters"),
    ("users list", "", "see users"),
    ("users show", "{user}", "see users"),
    ("users block", "{user}", "block and unblock users"),
    ("users unblock", "{user}", "block and unblock users"),
    ("users role", "{user} editor", "give roles"),
    ("users export", "out.json", "one's own account and data"),
    ("blog create", "--title T --body B", "write posts"),
    ("blog list", "--all", "write posts"),
    ("blog update", "{post} --title T", "write posts"),
    ("blog publish", "{post}", "write posts"),
    ("blog unpublish", "{post}", "write posts"),
    ("blog delete", "{post} --yes", "write posts"),
    ("blog build", "site", "write posts"),
    ("audit list", "", "see the audit trail"),
    ("backup", "copy.db", "keep the store safe"),
    ("restore", ELSEWHERE, "keep the store safe"),
    ("store check", "", "run the service"),
    ("run", "--dry-run", "run the service"),
    ("status", "", "run the service"),
    ("doctor", "", "run the service"),
    ("service cron", "", "run the service"),
    ("service systemd", "", "run the service"),
    ("init", ELSEWHERE, "run the service"),
    ("demo", ELSEWHERE, "run the service"),
    ("daemon", ELSEWHERE, "run the service"),
]

LISTED = {
    "clients list": "client", "messages list": "message", "mailings list": "mailing", "users list": "user id",
    "resolve": "delivery",
}  # fmt: skip
"""The kinds of objects whose ids a list, without arguments, shows."""


@dataclass(frozen=True)
class Scene:
    """A store in which everybody has one of each; `things` says what their ids are, by owner."""

    path: Path
    things: dict[str, dict[str, object]]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    path = tmp_path_factory.mktemp("scene") / "skychimp.db"
    create_store(f"sqlite:///{path}").close()
    store = open_store(f"sqlite:///{path}")
    things = {}
    for name, role in [(role, Role(role)) for role in ROLES[1:]] + [(f"another-{role}", role) for role in Role]:
        things[name] = one_of_each(store, enrol(store, name, role))
    things["nobody"] = dict.fromkeys(things["user"], 999) | {"email": "x@example.org", "user": "x@example.org"}
    store.checkpoint()
    store.close()
    return Scene(path, things)


def one_of_each(store: Store, owner: Actor) -> dict[str, object]:
    name, now, user_id = owner.email.partition("@")[0], datetime.now(UTC), owner.user_id
    email = f"client-of-{name}@example.org"
    mailing_id = ledger_rows.mailing(store, owner)
    delivery = ledger_rows.delivery(
        store, ledger_rows.occurrence(store, mailing_id), email, DeliveryState.UNKNOWN, None
    )
    ledger_rows.attempt(store, delivery, Outcome.UNKNOWN, "closed after the dot")
    later = now + timedelta(days=1)
    client = Client(owner_id=user_id, email=email, address_key=email, created_at=now)
    free = Message(
        owner_id=user_id, subject="In no mailing", body="", format=Format.TEXT, created_at=now, updated_at=now
    )
    post = Post(author_id=user_id, slug=name, title=name, content="x", created_at=now, updated_at=now, published_at=now)
    login = Login(user_id=user_id, token_hash=digest(name), created_at=now, seen_at=now, expires_at=later)
    with store.write() as db:
        db.add_all([client, free, post, login])
        mailing = db.get_one(Mailing, mailing_id)
        mailing.all_clients = True
        db.flush()
    return {
        "client": client.id, "email": email, "message": mailing.message_id, "free": free.id, "mailing": mailing_id,
        "delivery": delivery, "user": owner.email, "user id": user_id, "post": post.id, "slug": name,
    }  # fmt: skip


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def home(scene: Scene, role: str, folder: Path) -> Home:
    """A role's command line, on a copy of the scene."""
    shutil.copy(scene.path, folder / "skychimp.db")
    (folder / "people.csv").write_text("email\nsomebody@example.org\n")
    return Home(
        folder,
        SKYCHIMP_STORE=str(folder / "skychimp.db"),
        SKYCHIMP_TOKEN=role,
        SKYCHIMP_PASSWORD="correct horse battery",
        SKYCHIMP_MAIL__SENDER="Skychimp <news@skychimp.test>",
        SKYCHIMP_MAIL__TIMEZONE="UTC",
    )


def owner_of(whose: str, role: str) -> str:
    """Whose things a command is about."""
    if whose in ("own", "oneself"):
        return "another-user" if role == "guest" else role
    return {"another's": "another-user", "nobody's": "nobody", "nobody": "nobody"}.get(
        whose, f"another-{whose.rpartition(' ')[2]}"
    )


def outcome(done: Done) -> str:
    """What became of it, by exit status and code."""
    if done.status == 5:
        return {"denied": DENIED, "not_logged_in": LOGIN}[done.error["code"]]
    return {0: DONE, 4: MISSING}.get(done.status, f"exit status {done.status}: {done.err}")


def commands() -> list[str]:
    """Every command there is."""
    found = []
    for name in COMMANDS:
        command = get_command(importlib.import_module(f"skychimp.cli.commands.{name}").app)
        found += [f"{name} {sub}" for sub in command.commands] if hasattr(command, "commands") else [name]
    return found


def cases() -> Iterator[object]:
    there = commands()
    for command, arguments, rule in WALK:
        for role in ROLES if arguments is not None and command in there else ():
            yield pytest.param(command, arguments, rule, role, id=f"{command} {arguments}".strip() + f", {role}")


@pytest.mark.parametrize(("command", "arguments", "rule", "role"), list(cases()))
def test_a_command_does_what_the_role_may(
    scene: Scene, tmp_path: Path, command: str, arguments: str, rule: str, role: str
) -> None:
    expected = MAY[rule][ROLES.index(role)]
    here = home(scene, role, tmp_path)
    if command in LISTED and not arguments:
        assert listed(here.call(*command.split(), "--json"), LISTED[command], scene, role, expected) == []
        return
    kinds = WHOM if "{user}" in arguments else WHOSE if re.search(r"{(?!my )", arguments) else WHOSE[:1]
    mine = {f"my {name}": thing for name, thing in scene.things[owner_of("own", role)].items()}
    found = {}
    for whose in reversed(kinds):  # one's own at last: it may be gone afterwards
        words = arguments.format_map(scene.things[owner_of(whose, role)] | mine)
        found[whose] = outcome(here.call(*command.split(), *shlex.split(words), "--json"))
    assert found == {whose: expected[whose] for whose in kinds}


def listed(done: Done, kind: str, scene: Scene, role: str, expected: dict[str, str]) -> list[str]:
    """Whose objects a list shows against the rule, or hides."""
    if outcome(done) != DONE:
        return [whose for whose, what in expected.items() if what != outcome(done)]
    ids = {row["id"] for row in done.json}
    shown = {
        whose: scene.things[owner_of(whose, role)][kind] in ids for whose in (WHOM if kind == "user id" else WHOSE)
    }
    return [whose for whose, is_there in shown.items() if is_there != (expected[whose] == DONE)]


def test_every_command_is_walked() -> None:
    for command in commands():
        assert command in {walked for walked, _, _ in WALK}, (
            f"{command} is not walked; add a line to WALK, its rule one of MAY, the table of the contract:\n"
            f'    ("{command}", "ARGUMENTS, with {{message}} or the like for what it is about", "RULE"),'
        )


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(services.__path__, "skychimp.services."):
        yield importlib.import_module(found.name)


FOR_GUESTS_TOO = {"home.home", "posts.list_posts", "posts.view"}
"""Services that answer anybody, and say more to who may see more."""


def asking() -> Iterator[object]:
    """The services that are told who acts."""
    for module in modules():
        for name, function in inspect.getmembers(module, inspect.isfunction):
            named = f"{module.__name__.rpartition('.')[2]}.{name}"
            is_ours = function.__module__ == module.__name__ and not name.startswith("_")
            is_told = list(inspect.signature(function).parameters)[:2] == ["store", "actor"]
            if is_ours and is_told and named not in FOR_GUESTS_TOO:
                yield pytest.param(function, id=named)


@pytest.mark.parametrize("function", list(asking()))
def test_every_service_asks_who_acts_before_it_looks_at_anything_else(store: Store, function: object) -> None:
    """A guest is sent to log in, whatever else was said, and nothing is done."""
    assert callable(function)
    parameters = list(inspect.signature(function).parameters.values())[2:]
    needed = {parameter.name: MagicMock() for parameter in parameters if parameter.default is parameter.empty}
    with pytest.raises(NotLoggedIn):
        list(function(store, ANONYMOUS, **needed))
