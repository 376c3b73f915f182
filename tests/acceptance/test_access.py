"""Access: every command is run by every role, on objects that are its own, another user's, or do not exist.

`RULES` says what each role may do, and `COMMAND_RULES` has a line for each command. A new command needs a new line.
"""

import hashlib
import importlib
import inspect
import pkgutil
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import pytest
from conftest import create_user
from support import ledger_rows
from support.argon import fast_argon2  # noqa: F401
from support.command import CommandResult, Home, load_command

from skychimp import services
from skychimp.cli.help_pages import leaves
from skychimp.cli.registry import COMMANDS
from skychimp.errors import NotLoggedIn
from skychimp.models import (
    Client,
    ConsentSource,
    DeliveryState,
    Format,
    Layout,
    Login,
    Mailing,
    Message,
    MessageVariant,
    Outcome,
    Post,
    Role,
    Segment,
    SuppressionSource,
)  # fmt: skip
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.store.clients import consents, suppressions
from skychimp.store.clients.consents import NewConsent
from skychimp.store.clients.suppressions import Holds, NewSuppression
from skychimp.store.database import Store
from skychimp.store.schema import create_store, open_store

ROLES = ("guest", "user", "manager", "editor", "admin")

# The expected result of a command, by the owner of the object.

DONE, NOT_FOUND, DENIED, LOGIN = "done", "not found", "denied", "log in"
OWNERS = ("own", "another user's", "missing")
OWN = dict(zip(OWNERS, (DONE, NOT_FOUND, NOT_FOUND), strict=True))
ANY = dict(zip(OWNERS, (DONE, DONE, NOT_FOUND), strict=True))

# The same for commands about users, by the role of that user.

USERS = ("a user", "an editor", "a manager", "an admin", "oneself", "missing user")
MANAGED = dict(zip(USERS, (DONE, DONE, NOT_FOUND, NOT_FOUND, DENIED, NOT_FOUND), strict=True))
OTHERS = dict(zip(USERS, (DONE, DONE, DONE, DONE, DENIED, NOT_FOUND), strict=True))
EVERYBODY = OTHERS | {"oneself": DONE}

NONE = dict.fromkeys((*OWNERS, *USERS), DENIED)
NO_LOGIN = dict.fromkeys((*OWNERS, *USERS), LOGIN)

RULES = {
    #                                      guest     user  manager  editor admin
    "log in and out": (ANY, ANY, ANY, ANY, ANY),
    "read the blog and the home page": (ANY, ANY, ANY, ANY, ANY),
    "own clients, messages, mailings": (NO_LOGIN, OWN, NONE, NONE, OWN),
    "see mailings and their messages": (NO_LOGIN, OWN, ANY, NONE, ANY),
    "disable mailings": (NO_LOGIN, OWN, ANY, NONE, ANY),
    "resolve unknown deliveries": (NO_LOGIN, OWN, NONE, NONE, ANY),
    "see users": (NO_LOGIN, NONE, MANAGED, NONE, EVERYBODY),
    "block and unblock users": (NO_LOGIN, NONE, MANAGED, NONE, OTHERS),
    "change roles": (NO_LOGIN, NONE, NONE, NONE, OTHERS),
    "write posts": (NO_LOGIN, NONE, NONE, ANY, ANY),
    "see the audit trail": (NO_LOGIN, NONE, NONE, NONE, ANY),
    "back up and restore the store": (NO_LOGIN, NONE, NONE, NONE, ANY),
    "erase people from all users' data": (NO_LOGIN, NONE, NONE, NONE, ANY),
    "suppress addresses for all users": (NO_LOGIN, NONE, NONE, NONE, ANY),
    "own account and data": (NO_LOGIN, ANY, ANY, ANY, ANY),
    "own sessions": (NO_LOGIN, OWN, OWN, OWN, OWN),
    "run the service": (ANY, ANY, ANY, ANY, ANY),
}

ELSEWHERE = None
"""Instead of arguments: the command needs no login, or logs in, and is run in other tests."""

SCHEDULE = "--start '2030-01-01 09:00' --every day"

COMMAND_RULES: list[tuple[str, str | None, str]] = [
    ("stats", "", "read the blog and the home page"),
    ("blog list", "", "read the blog and the home page"),
    ("blog show", "{post}", "read the blog and the home page"),
    ("help", "", "read the blog and the home page"),
    ("register", "--email new@example.org", "log in and out"),
    ("verify", ELSEWHERE, "log in and out"),
    ("login", ELSEWHERE, "log in and out"),
    ("logout", "", "log in and out"),
    ("password reset", ELSEWHERE, "log in and out"),
    ("password change", "", "own account and data"),
    ("whoami", "", "own account and data"),
    ("sessions list", "", "own sessions"),
    ("sessions end", "{session}", "own sessions"),
    ("sessions end", "--all", "own account and data"),
    ("clients create", "--email new@example.org", "own clients, messages, mailings"),
    ("clients list", "", "own clients, messages, mailings"),
    ("clients show", "{client}", "own clients, messages, mailings"),
    ("clients show", "{email}", "own clients, messages, mailings"),
    ("clients consents", "{email}", "own clients, messages, mailings"),
    ("clients fields", "", "own clients, messages, mailings"),
    ("clients tags", "", "own clients, messages, mailings"),
    ("clients update", "{client} --name New", "own clients, messages, mailings"),
    ("clients update", "{client} {email} --add-tag new", "own clients, messages, mailings"),
    ("clients delete", "{client} --yes", "own clients, messages, mailings"),
    ("clients forget", "{email} --yes", "own clients, messages, mailings"),
    ("clients forget", "{email} --yes --all-users", "erase people from all users' data"),
    ("clients import", "people.csv", "own clients, messages, mailings"),
    ("clients export", "out.csv", "own clients, messages, mailings"),
    ("clients list", "--where \"tag = 'vip'\"", "own clients, messages, mailings"),
    ("clients update", "--where \"tag = 'vip'\" --add-tag new", "own clients, messages, mailings"),
    ("segments create", "new --where 'name IS NULL'", "own clients, messages, mailings"),
    ("segments list", "", "own clients, messages, mailings"),
    ("segments show", "{segment}", "own clients, messages, mailings"),
    ("segments update", "{segment} --name new", "own clients, messages, mailings"),
    ("segments delete", "{segment} --yes", "own clients, messages, mailings"),
    ("suppressions add", "x@example.org", "own clients, messages, mailings"),
    ("suppressions add", "x@example.org --everywhere", "suppress addresses for all users"),
    ("suppressions list", "--search example", "own clients, messages, mailings"),
    ("suppressions list", "--everywhere", "suppress addresses for all users"),
    ("suppressions show", "{email}", "own clients, messages, mailings"),
    ("suppressions remove", "{email} --yes", "own clients, messages, mailings"),
    ("suppressions import", "people.csv", "own clients, messages, mailings"),
    ("suppressions export", "out.csv", "own clients, messages, mailings"),
    ("messages create", "--subject S --body B", "own clients, messages, mailings"),
    ("messages list", "", "see mailings and their messages"),
    ("messages show", "{message}", "see mailings and their messages"),
    ("messages update", "{message} --subject New", "own clients, messages, mailings"),
    ("messages delete", "{unused} --yes", "own clients, messages, mailings"),
    ("messages preview", "{message}", "see mailings and their messages"),
    ("messages preview", "{own message} --client {client}", "own clients, messages, mailings"),
    ("messages check", "{message}", "see mailings and their messages"),
    ("messages test", "{message} --to me@example.org", "own clients, messages, mailings"),
    ("messages variants set", "{message} ru --subject S --body B", "own clients, messages, mailings"),
    ("messages variants list", "{message}", "see mailings and their messages"),
    ("messages variants delete", "{message} de --yes", "own clients, messages, mailings"),
    ("layouts create", "new --html-file layout.html", "own clients, messages, mailings"),
    ("layouts list", "", "see mailings and their messages"),
    ("layouts show", "{layout}", "see mailings and their messages"),
    ("layouts show", "default", "see mailings and their messages"),
    ("layouts update", "{layout} --name new", "own clients, messages, mailings"),
    ("layouts delete", "{layout} --yes", "own clients, messages, mailings"),
    ("mailings create", "--message {message} --all-clients " + SCHEDULE, "own clients, messages, mailings"),
    ("mailings create", "--message {own message} --client {client} " + SCHEDULE, "own clients, messages, mailings"),
    ("mailings create", "--message {own message} --segment {segment} " + SCHEDULE, "own clients, messages, mailings"),
    ("mailings list", "", "see mailings and their messages"),
    ("mailings show", "{mailing}", "see mailings and their messages"),
    ("mailings audience", "{mailing}", "own clients, messages, mailings"),
    ("mailings update", "{mailing} --end 2031-01-01", "own clients, messages, mailings"),
    ("mailings update", "{own mailing} --message {message}", "own clients, messages, mailings"),
    ("mailings update", "{own mailing} --client {client}", "own clients, messages, mailings"),
    ("mailings duplicate", "{mailing}", "own clients, messages, mailings"),
    ("mailings delete", "{mailing} --yes", "own clients, messages, mailings"),
    ("mailings preview", "{mailing}", "see mailings and their messages"),
    ("mailings log", "{mailing}", "see mailings and their messages"),
    ("mailings disable", "{mailing}", "disable mailings"),
    ("mailings enable", "{mailing}", "disable mailings"),
    ("mailings retry", "{mailing}", "own clients, messages, mailings"),
    ("report", "{mailing}", "see mailings and their messages"),
    ("why", "{email}", "see mailings and their messages"),
    ("resolve", "", "resolve unknown deliveries"),
    ("resolve", "--sent {delivery}", "resolve unknown deliveries"),
    ("users list", "", "see users"),
    ("users show", "{user}", "see users"),
    ("users block", "{user}", "block and unblock users"),
    ("users unblock", "{user}", "block and unblock users"),
    ("users role", "{user} editor", "change roles"),
    ("users export", "out.json", "own account and data"),
    ("blog create", "--title T --body B", "write posts"),
    ("blog list", "--all", "write posts"),
    ("blog update", "{post} --title T", "write posts"),
    ("blog publish", "{post}", "write posts"),
    ("blog unpublish", "{post}", "write posts"),
    ("blog delete", "{post} --yes", "write posts"),
    ("blog build", "site", "write posts"),
    ("audit list", "", "see the audit trail"),
    ("backup", "copy.db", "back up and restore the store"),
    ("restore", ELSEWHERE, "back up and restore the store"),
    ("store check", "", "run the service"),
    ("store vacuum", "", "run the service"),
    ("store copy", "copied.db", "back up and restore the store"),
    ("store rotate-key", "--yes", "back up and restore the store"),
    ("run", "--dry-run", "run the service"),
    ("status", "", "run the service"),
    ("doctor", "", "run the service"),
    ("doctor", "--accept-clock --yes", "back up and restore the store"),
    ("inbound read", ELSEWHERE, "run the service"),
    ("inbound maildir", ELSEWHERE, "run the service"),
    ("inbound imap", ELSEWHERE, "run the service"),
    ("dkim keygen", "--type ed25519 --domain example.org --out k.pem", "run the service"),
    ("service install", ELSEWHERE, "run the service"),
    ("service remove", ELSEWHERE, "run the service"),
    ("service cron", "", "run the service"),
    ("service systemd", "", "run the service"),
    ("service sudoers", ELSEWHERE, "run the service"),
    ("service web", ELSEWHERE, "run the service"),
    ("serve", ELSEWHERE, "run the service"),
    ("init", ELSEWHERE, "run the service"),
    ("trust", "other.toml", "run the service"),
    ("demo", ELSEWHERE, "run the service"),
    ("daemon", ELSEWHERE, "run the service"),
]

LISTED = {
    "clients list": "client", "messages list": "message", "mailings list": "mailing", "users list": "user id",
    "resolve": "delivery", "sessions list": "session", "segments list": "segment",
    "layouts list": "layout",
}  # fmt: skip
"""The kind of object whose ids a list shows if it is run without arguments."""


@dataclass(frozen=True)
class SharedStore:
    """A store in which each user has one object of each kind. `ids` are their ids, by owner and kind."""

    path: Path
    ids: dict[str, dict[str, object]]


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> SharedStore:
    path = tmp_path_factory.mktemp("shared") / "skychimp.db"
    create_store(f"sqlite:///{path}").close()
    store = open_store(f"sqlite:///{path}")
    names = [(role, Role(role)) for role in ROLES[1:]] + [(f"another-{role}", role) for role in Role]
    ids = {name: create_one_of_each(store, create_user(store, name, role)) for name, role in names}
    ids["missing"] = dict.fromkeys(ids["user"], 999) | {"email": "x@example.org", "user": "x@example.org"}
    store.checkpoint()
    store.close()
    return SharedStore(path, ids)


def create_one_of_each(store: Store, owner: Actor) -> dict[str, object]:
    """Give a user an object of each kind, and return their ids."""
    name, now, user_id = owner.email.partition("@")[0], datetime.now(UTC), owner.user_id
    email = f"client-of-{name}@example.org"
    mailing_id = ledger_rows.mailing(store, owner)
    delivery = ledger_rows.delivery(
        store, ledger_rows.occurrence(store, mailing_id), email, DeliveryState.UNKNOWN, None
    )
    ledger_rows.attempt(store, delivery, Outcome.UNKNOWN, "closed after the dot")
    later = now + timedelta(days=1)
    client = Client(owner_id=user_id, email=email, address_key=email, created_at=now)
    segment = Segment(owner_id=user_id, key=name, name=name, expression="name IS NULL", created_at=now, updated_at=now)
    unused = Message(
        owner_id=user_id, subject="In no mailing", body="", format=Format.TEXT, created_at=now, updated_at=now
    )
    layout = Layout(owner_id=user_id, key=name, name=name, html="{{ content }}", created_at=now, updated_at=now)
    post = Post(author_id=user_id, slug=name, title=name, content="x", created_at=now, updated_at=now, published_at=now)
    login = Login(user_id=user_id, token_hash=digest(name), created_at=now, seen_at=now, expires_at=later)
    with store.write() as db:
        db.add_all([client, segment, layout, unused, post, login])
        mailing = db.get_one(Mailing, mailing_id)
        mailing.all_clients = True
        suppressed = [NewSuppression(email, email, "unsubscribed")]
        suppressions.add(db.connection(), suppressed, Holds(user_id), SuppressionSource.COMMAND, now)
        given = [NewConsent(email, now, "newsletter")]
        consents.record(db.connection(), user_id, given, ConsentSource.COMMAND, now)
        db.get_one(Message, mailing.message_id).variant_by = "lang"
        variant = {"message_id": mailing.message_id, "key": "de", "value": "de", "subject": "Neues", "body": ""}
        db.add(MessageVariant(**variant, format=Format.TEXT, updated_at=now))
        db.flush()
    return {
        "client": client.id, "email": email, "message": mailing.message_id, "unused": unused.id, "mailing": mailing_id,
        "delivery": delivery, "user": owner.email, "user id": user_id, "post": post.id, "slug": name,
        "session": login.id, "segment": segment.id, "layout": layout.id,
    }  # fmt: skip


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def home(shared: SharedStore, role: str, folder: Path) -> Home:
    """Return the command line of a role, on a copy of the shared store."""
    folder.mkdir()
    shutil.copy(shared.path, folder / "skychimp.db")
    (folder / "people.csv").write_text("email\nsomebody@example.org\n")
    (folder / "layout.html").write_text("{{ content }}")
    (folder / "other.toml").touch()
    return Home(
        folder,
        SKYCHIMP_STORE=str(folder / "skychimp.db"),
        SKYCHIMP_TOKEN=role,
        SKYCHIMP_PASSWORD="correct horse battery",
        SKYCHIMP_MAIL__SENDER="Skychimp <news@skychimp.test>",
        SKYCHIMP_MAIL__TIMEZONE="UTC",
    )


def owner_name(relation: str, role: str) -> str:
    """Return whose objects a command is about, for one of OWNERS or USERS."""
    if relation in ("own", "oneself"):
        return "another-user" if role == "guest" else role
    if relation in ("missing", "missing user"):
        return "missing"
    return "another-user" if relation == "another user's" else f"another-{relation.rpartition(' ')[2]}"


def result_of(done: CommandResult) -> str:
    """Return the result of a command by its exit status and error code."""
    if done.status == 5:
        return {"denied": DENIED, "not_logged_in": LOGIN}[done.error["code"]]
    return {0: DONE, 4: NOT_FOUND}.get(done.status, f"exit status {done.status}: {done.err}")


def all_commands() -> list[str]:
    """Return the name of every command."""
    names = []
    for name in COMMANDS:
        command = load_command(name)
        names += [f"{name} {sub}".rstrip() for sub in leaves(command)]
    return names


def cases() -> Iterator[object]:
    """Yield each line of COMMAND_RULES that is tested here."""
    known = all_commands()
    for command, arguments, rule in COMMAND_RULES:
        if arguments is not None and command in known:
            yield pytest.param(command, arguments, rule, id=f"{command} {arguments}".strip())


@pytest.mark.usefixtures("fast_argon2")
@pytest.mark.parametrize(("command", "arguments", "rule"), list(cases()))
def test_command_does_what_each_role_may(
    shared_store: SharedStore, tmp_path: Path, command: str, arguments: str, rule: str
) -> None:
    for role, expected in zip(ROLES, RULES[rule], strict=True):
        command_line = home(shared_store, role, tmp_path / role)
        if command in LISTED and not arguments:
            done = command_line.call(*command.split(), "--json")
            assert wrongly_listed(done, LISTED[command], shared_store, role, expected) == [], role
        else:
            results = results_by_relation(command_line, shared_store, role, command, arguments)
            assert results == {relation: expected[relation] for relation in results}, role


def results_by_relation(
    command_line: Home, shared: SharedStore, role: str, command: str, arguments: str
) -> Mapping[str, str]:
    """Run a command on objects of each owner that makes sense, and return the results."""
    relations: tuple[str, ...] = (
        USERS if "{user}" in arguments else OWNERS if re.search(r"{(?!own )", arguments) else OWNERS[:1]
    )
    own_ids = {f"own {kind}": value for kind, value in shared.ids[owner_name("own", role)].items()}
    results = {}
    if role == "guest":  # has no own objects: owner_name() returns another user's
        relations = tuple(relation for relation in relations if relation not in ("own", "oneself")) or relations
    for relation in reversed(relations):  # the own object last: it may be deleted
        text = arguments.format_map(shared.ids[owner_name(relation, role)] | own_ids)
        results[relation] = result_of(command_line.call(*command.split(), *shlex.split(text), "--json"))
    return results


def wrongly_listed(
    done: CommandResult, kind: str, shared: SharedStore, role: str, expected: dict[str, str]
) -> list[str]:
    """Return whose objects a list shows or hides against the rule."""
    if result_of(done) != DONE:
        return [relation for relation, result in expected.items() if result != result_of(done)]
    listed_ids = {row["id"] for row in done.json}
    is_listed = {
        relation: shared.ids[owner_name(relation, role)][kind] in listed_ids
        for relation in (USERS if kind == "user id" else OWNERS)
    }
    return [relation for relation, listed in is_listed.items() if listed != (expected[relation] == DONE)]


def test_every_command_has_a_rule() -> None:
    with_rule = {command for command, _, _ in COMMAND_RULES}
    for command in all_commands():
        assert command in with_rule, (
            f"{command} has no rule; add a line to COMMAND_RULES, with one of RULES:\n"
            f'    ("{command}", "ARGUMENTS, with {{message}} or the like for the object", "RULE"),'
        )


def service_modules() -> Iterator[ModuleType]:
    for module in pkgutil.walk_packages(services.__path__, "skychimp.services."):
        yield importlib.import_module(module.name)


PUBLIC_SERVICES = {"home.home", "posts.find_readable", "posts.list_posts", "posts.view"}
"""Services that answer without a login, and show more to users who may see more."""

TRAIL_WRITERS = {
    "audit.record_if_possible", "audit.record_view", "mailings.record_view", "refusals.record_denied",
    "refusals.record_not_found",
}  # fmt: skip
"""Services that only write the audit trail, and are told who acted: also that nobody was logged in."""


def services_with_actor() -> Iterator[object]:
    """Yield the service functions that are given the actor."""
    for module in service_modules():
        for name, function in inspect.getmembers(module, inspect.isfunction):
            full_name = f"{module.__name__.rpartition('.')[2]}.{name}"
            is_defined_here = function.__module__ == module.__name__ and not name.startswith("_")
            has_actor = list(inspect.signature(function).parameters)[:2] == ["store", "actor"]
            if is_defined_here and has_actor and full_name not in PUBLIC_SERVICES | TRAIL_WRITERS:
                yield pytest.param(function, id=full_name)


@pytest.fixture(scope="module")
def opened_store(shared_store: SharedStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Return a store for tests that change nothing."""
    path = shutil.copy(shared_store.path, tmp_path_factory.mktemp("opened"))
    with closing(open_store(f"sqlite:///{path}")) as store:
        yield store


@pytest.mark.parametrize("function", list(services_with_actor()))
def test_service_checks_the_actor_before_anything_else(opened_store: Store, function: object) -> None:
    """Without a login, whatever the other arguments are, NotLoggedIn is raised and nothing is done."""
    assert callable(function)
    parameters = list(inspect.signature(function).parameters.values())[2:]
    needed = {parameter.name: MagicMock() for parameter in parameters if parameter.default is parameter.empty}
    with pytest.raises(NotLoggedIn):
        list(function(opened_store, ANONYMOUS, **needed))
