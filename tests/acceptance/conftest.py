"""People at their command lines, on one store."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from command import Home

from skychimp.access import Actor
from skychimp.models import Login
from skychimp.store.engine import Store

HomeOf = Callable[[Actor], Home]


@pytest.fixture
def home_of(store: Store, tmp_path: Path) -> HomeOf:
    """Logs somebody in at a command line of their own."""

    def home_of(actor: Actor) -> Home:
        token, now = f"token of {actor.email}", datetime.now(UTC)
        digest = hashlib.sha256(token.encode()).hexdigest()
        with store.write() as session:
            session.add(
                Login(user_id=actor.user_id, token_hash=digest, created_at=now, expires_at=now + timedelta(days=1))
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
def home(home_of: HomeOf, ada: Actor) -> Home:
    """Ada's command line."""
    return home_of(ada)
