"""Provide the fixtures that many tests share: a new store, users with an account, command lines, a certificate."""

import secrets
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from sqlalchemy import Connection, Engine, event
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.util import LRUCache
from support.command import Home
from support.stores import store_environ

from skychimp.models import Login, Role, User
from skychimp.permissions import Actor
from skychimp.services.accounts import session_rule
from skychimp.store.database import SQLITE, Store
from skychimp.store.schema import create_store, open_store

if TYPE_CHECKING:
    import trustme
    from support.postgres import Server

# Each test opens a store of its own, and would compile the same statements again: that took a fifth of the time.
_STATEMENTS = LRUCache[Any, Any](2_000)
SQLiteDialect.__eq__ = lambda self, other: type(self) is type(other)  # type: ignore[method-assign]
SQLiteDialect.__hash__ = lambda self: hash(type(self))  # type: ignore[method-assign]


@event.listens_for(Engine, "engine_connect")
def _share_compiled_statements(db: Connection) -> None:
    if db.dialect.name == SQLITE:
        db.execution_options(compiled_cache=_STATEMENTS)


# No deadline: tests must pass on a slow machine. CI uses --hypothesis-profile=thorough.
settings.register_profile("skychimp", deadline=None, max_examples=30)
settings.register_profile("thorough", deadline=None, max_examples=300)
settings.load_profile("skychimp")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests that use a store run on a PostgreSQL server of their own, and keep what tests record."""
    parser.addoption("--postgres", action="store_true", help="Keep the stores of tests in PostgreSQL, not in files.")
    parser.addoption("--records", type=Path, metavar="FOLDER", help="Keep records of screens and pages in this folder.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --postgres, run only the tests that use a store, and are not about SQLite or its file.

    The tests that are about PostgreSQL run only then.
    """
    is_chosen = uses_any_database if config.getoption("--postgres") else needs_no_server
    config.hook.pytest_deselected(items=[item for item in items if not is_chosen(item)])
    items[:] = filter(is_chosen, items)


def uses_any_database(item: pytest.Item) -> bool:
    """Return whether a test uses a store and can have it in PostgreSQL."""
    uses_store = "store" in getattr(item, "fixturenames", ()) or item.get_closest_marker("postgres") is not None
    return uses_store and item.get_closest_marker("sqlite") is None


def needs_no_server(item: pytest.Item) -> bool:
    """Return whether a test is not about PostgreSQL."""
    return item.get_closest_marker("postgres") is None


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Server]":
    """Start a PostgreSQL server for this test process."""
    from support import postgres

    if postgres.find_programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres.running_server(tmp_path_factory.mktemp("postgres")) as server:
        create_store(server.url("postgres")).close()
        server.create_database("new_store", "postgres")
        yield server


@pytest.fixture
def postgres_url(postgres_server: "Server") -> Iterator[str]:
    """Return the URL of an empty store on that server."""
    name = f"store_{secrets.token_hex(6)}"
    postgres_server.create_database(name, "new_store")
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def _new_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of an empty store to copy. Creating one for each test would take most of the time."""
    path = tmp_path_factory.mktemp("new") / "skychimp.db"
    create_store(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty store."""
    if request.config.getoption("--postgres"):
        request.getfixturevalue("monkeypatch").setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        return str(request.getfixturevalue("postgres_url"))
    path = tmp_path / "skychimp.db"
    shutil.copy(request.getfixturevalue("_new_store"), path)
    return f"sqlite:///{path}"


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """Return an empty store."""
    opened = open_store(store_url)
    yield opened
    opened.close()


@pytest.fixture
def with_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let hints name sudo also where it is not installed."""
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


def create_user(store: Store, name: str, role: Role = Role.USER) -> Actor:
    """Create a user `NAME@skychimp.test` and return them as the actor."""
    email = f"{name}@skychimp.test"
    now = datetime.now(UTC)
    with store.write() as db:
        user = User(email=email, address_key=email, role=role, created_at=now, verified_at=now)
        db.add(user)
        db.flush()
        assert user.id is not None
        return Actor(user.id, email, role)


@pytest.fixture
def ada(store: Store) -> Actor:
    """Return a user."""
    return create_user(store, "ada")


@pytest.fixture
def bob(store: Store) -> Actor:
    """Return another user."""
    return create_user(store, "bob")


@pytest.fixture
def manager(store: Store) -> Actor:
    """Return a manager."""
    return create_user(store, "manager", Role.MANAGER)


@pytest.fixture
def admin(store: Store) -> Actor:
    """Return an administrator."""
    return create_user(store, "admin", Role.ADMIN)


@pytest.fixture
def home_of(store: Store, tmp_path: Path) -> Callable[[Actor], Home]:
    """Return a function that logs a user in and returns their command line."""

    def home_of(actor: Actor) -> Home:
        token, now = f"token of {actor.email}", datetime.now(UTC)
        with store.write() as db:
            db.add(
                Login(
                    user_id=actor.user_id,
                    token_hash=session_rule.hash_token(token),
                    created_at=now,
                    seen_at=now,
                    expires_at=now + timedelta(days=30),
                )
            )
        folder = tmp_path / actor.email.partition("@")[0]
        folder.mkdir()
        return Home(
            folder,
            **store_environ(store),
            SKYCHIMP_TOKEN=token,
            SKYCHIMP_MAIL__SENDER="Skychimp <news@skychimp.test>",
            SKYCHIMP_MAIL__TIMEZONE="UTC",
        )

    return home_of


@pytest.fixture
def home(home_of: Callable[[Actor], Home], ada: Actor) -> Home:
    """Return Ada's command line."""
    return home_of(ada)


@pytest.fixture
def records(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return the folder for records: that of --records, or the test's own."""
    folder: Path = request.config.getoption("--records") or tmp_path / "records"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.absolute()


@pytest.fixture(scope="session")
def authority() -> "trustme.CA":
    """Return a certificate authority that no system knows."""
    import trustme

    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(authority: "trustme.CA", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file with the certificate of the authority."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path
