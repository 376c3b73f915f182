"""What many tests begin with: a real store in a file of its own, and people who have an account there.

This folder is also where pytest finds the tests' own modules, such as `servers`.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skychimp.access import Actor
from skychimp.models import Role, User
from skychimp.store.engine import Store, create_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A new store, without anybody in it."""
    made = create_store(f"sqlite:///{tmp_path / 'skychimp.db'}")
    yield made
    made.close()


def enrol(store: Store, name: str, role: Role = Role.USER) -> Actor:
    """Give somebody an account, `name@skychimp.test`."""
    email = f"{name}@skychimp.test"
    now = datetime.now(UTC)
    with store.write() as session:
        user = User(email=email, address_key=email, role=role, created_at=now, verified_at=now)
        session.add(user)
        session.flush()
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
