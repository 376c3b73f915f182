"""What many tests begin with: a real store in a file of its own, people with an account there, and command lines."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from support.command import Home

from skychimp.models import Login, Role, User
from skychimp.permissions import Actor
from skychimp.store.database import Store
from skychimp.store.schema import create_store, open_store

settings.register_profile("skychimp", deadline=None)  # a slow machine is no defect
settings.load_profile("skychimp")


@pytest.fixture(scope="session")
def _new_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as `create_store` makes it, to be copied: making it anew for each test would take most of the time."""
    path = tmp_path_factory.mktemp("new") / "skychimp.db"
    create_store(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def store(_new_store: Path, tmp_path: Path) -> Iterator[Store]:
    """A new store, without anybody in it."""
    path = tmp_path / "skychimp.db"
    shutil.copy(_new_store, path)
    opened = open_store(f"sqlite:///{path}")
    yield opened
    opened.close()


def enrol(store: Store, name: str, role: Role = Role.USER) -> Actor:
    """Give somebody an account, `name@skychimp.test`."""
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
    """A user."""
    return enrol(store, "ada")


@pytest.fixture
def bob(store: Store) -> Actor:
    """Another user."""
    return enrol(store, "bob")


@pytest.fixture
def manager(store: Store) -> Actor:
    return enrol(store, "manager", Role.MANAGER)


@pytest.fixture
def admin(store: Store) -> Actor:
    return enrol(store, "admin", Role.ADMIN)


@pytest.fixture
def home_of(store: Store, tmp_path: Path) -> Callable[[Actor], Home]:
    """Logs somebody in at a command line of their own."""

    def home_of(actor: Actor) -> Home:
        token, now = f"token of {actor.email}", datetime.now(UTC)
        digest = hashlib.sha256(token.encode()).hexdigest()
        with store.write() as db:
            db.add(
                Login(
                    user_id=actor.user_id,
                    token_hash=digest,
                    created_at=now,
                    seen_at=now,
                    expires_at=now + timedelta(days=1),
                )
            )
        folder = tmp_path / actor.email.partition("@")[0]
        folder.mkdir()
        return Home(
            folder,
            SKYCHIMP_STORE=str(store.path),
            SKYCHIMP_TOKEN=token,
            SKYCHIMP_MAIL__SENDER="Skychimp <news@skychimp.test>",
            SKYCHIMP_MAIL__TIMEZONE="UTC",
        )

    return home_of


@pytest.fixture
def home(home_of: Callable[[Actor], Home], ada: Actor) -> Home:
    """Ada's command line."""
    return home_of(ada)
