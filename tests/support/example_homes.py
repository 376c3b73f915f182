"""Fill a store once, and run the commands of each test on a copy of it: filling it takes longer than most tests."""

import shutil
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from conftest import create_user

from skychimp.services.accounts import sessions
from skychimp.store.schema import open_store
from support.command import Home


def create_home(new_store: Path, folder: Path) -> Home:
    """Return the command line of Ada, who is logged in to a copy of an empty store in this folder."""
    path = Path(shutil.copy(new_store, folder))
    with closing(open_store(f"sqlite:///{path}")) as store:
        ada = create_user(store, "ada")
        with store.write() as db:
            token = sessions.start(db, ada.user_id, datetime.now(UTC))
    return Home(
        folder,
        SKYCHIMP_STORE=str(path),
        SKYCHIMP_TOKEN=token,
        SKYCHIMP_MAIL__SENDER="Skychimp <news@skychimp.test>",
        SKYCHIMP_MAIL__TIMEZONE="UTC",
    )


def copy_of(home: Home, folder: Path) -> Home:
    """Return the same command line with a new home, on a copy of the store. It must not be open."""
    path = str(shutil.copy(home.environ["SKYCHIMP_STORE"], folder))
    own = folder / "ada"
    own.mkdir()
    return Home(own, **home.environ | {"HOME": str(own), "SKYCHIMP_STORE": path})
