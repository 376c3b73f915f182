"""Six processes change clients, mailings and posts. Each sees its own changes, and readers see correct counts."""

import io
import os
import random
from multiprocessing import get_context
from pathlib import Path

import pytest
from conftest import create_user
from PIL import Image
from sqlalchemy import text
from support.contents import image_names

from skychimp.config import sources
from skychimp.delivery.composing.compose import MessageContent
from skychimp.models import Every, Format, Role
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.blog import images, posts
from skychimp.services.clients import clients
from skychimp.services.mailings import mailings
from skychimp.services.mailings.audience_input import Audience
from skychimp.services.mailings.schedules import ScheduleInput
from skychimp.services.messages import messages
from skychimp.services.reporting.cache import Cached, open_cache
from skychimp.services.reporting.home import Home, home
from skychimp.store.database import Store
from skychimp.store.schema import open_store

WRITERS = 6
FORKSERVER = get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    [__name__, "skychimp.services.reporting.home", "skychimp.services.reporting.cache_folder", "PIL.Image"]
)

COUNTS_SQL = """
    SELECT count(*), count(*) FILTER (WHERE disabled_at IS NULL AND status <> 'completed'),
        (SELECT count(DISTINCT address_key) FROM client WHERE EXISTS (SELECT * FROM mailing
            WHERE mailing.owner_id = client.owner_id AND deleted_at IS NULL AND (all_clients OR EXISTS (
                SELECT * FROM mailing_tag JOIN client_tag USING (tag)
                WHERE mailing_id = mailing.id AND client_id = client.id))))
    FROM mailing WHERE deleted_at IS NULL"""
"""The counts of the home page, by a query of their own. No mailing here has an end or names a client."""


class Writer:
    """A process that changes its own clients, mailings and posts, and remembers what there should be."""

    def __init__(self, url: str, actor: Actor, number: int) -> None:
        self.store = open_store(url)
        self.cached = open_cache(sources.load_settings({"store.url": url}, environ={}), _fail)
        self.actor, self.random = actor, random.Random(number)
        self.editor = Actor(actor.user_id, actor.email, Role.EDITOR)
        self.message = messages.create(self.store, actor, MessageContent("Hello", "Hello", Format.TEXT)).id
        self.clients: dict[int, bool] = {}
        """Whether each client has the tag, by id."""
        self.mailings: dict[int, tuple[bool, bool]] = {}
        """Whether each mailing is active, and whether it is for all clients instead of those with the tag, by id."""
        self.posts: list[str] = []

    def work(self, steps: int) -> None:
        methods = [self.add_client, self.add_client, self.remove_client, self.tag, self.add_mailing, self.switch,
                 self.remove_mailing, self.add_post, self.remove_post]  # fmt: skip
        for number in range(steps):
            self.random.choice(methods)(number)
            self.check(home(self.store, self.actor, self.cached))
            posts.view(self.store, ANONYMOUS, "1")
        self.store.close()

    def check(self, page: Home) -> None:
        assert page.yours is not None
        shown = (page.yours.mailings, page.yours.active_mailings, page.yours.unique_clients, page.yours.clients)
        tagged = sum(self.clients.values())
        audience_sizes = [len(self.clients) if for_all else tagged for _, for_all in self.mailings.values()]
        active = sum(is_active for is_active, _ in self.mailings.values())
        assert shown == (len(self.mailings), active, max(audience_sizes, default=0), len(self.clients))

    def add_client(self, number: int) -> None:
        tagged = number % 2 == 0
        email = f"{number}@example.org"  # other writers have a client with the same address
        created = clients.create(self.store, self.actor, email=email, tags=["tag"] if tagged else [])
        self.clients[created.id] = tagged

    def remove_client(self, _: int) -> None:
        if self.clients:
            removed = self.random.choice(list(self.clients))
            clients.remove(self.store, self.actor, str(removed))
            del self.clients[removed]

    def tag(self, number: int) -> None:
        if self.clients:
            chosen = self.random.choice(list(self.clients))
            self.clients[chosen] = number % 3 == 0
            clients.change(self.store, self.actor, str(chosen), tags=["tag"] if self.clients[chosen] else [])

    def add_mailing(self, number: int) -> None:
        for_all = number % 3 == 0
        audience = Audience(True) if for_all else Audience(tags=["tag"])
        schedule = ScheduleInput("2030-01-01 09:00", None, Every.DAY, "UTC")
        created = mailings.create(self.store, self.actor, message_id=self.message, schedule=schedule, audience=audience)
        self.mailings[created.id] = (True, for_all)

    def switch(self, _: int) -> None:
        if self.mailings:
            chosen = self.random.choice(list(self.mailings))
            is_active, for_all = self.mailings[chosen]
            (mailings.disable if is_active else mailings.enable)(self.store, self.actor, chosen)
            self.mailings[chosen] = (not is_active, for_all)

    def remove_mailing(self, _: int) -> None:
        if self.mailings:
            removed = self.random.choice(list(self.mailings))
            mailings.remove(self.store, self.actor, removed)
            del self.mailings[removed]

    def add_post(self, number: int) -> None:
        created = posts.create(
            self.store, self.editor, title="The same", content="x", image=_image(number % 2), publish=number % 5 > 0
        )
        self.posts.append(created.slug)

    def remove_post(self, _: int) -> None:
        if self.posts:
            posts.remove(self.store, self.editor, self.posts.pop(0))


def _fail(warning: str) -> None:
    raise AssertionError(warning)


def _image(number: int) -> images.Image:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number * 100, 0, 0)).save(file, "PNG")
    return images.reencode(file.getvalue())


def _write(url: str, cache: str, actor: Actor, number: int, steps: int) -> None:
    os.environ["XDG_CACHE_HOME"] = cache
    Writer(url, actor, number).work(steps)


@pytest.mark.parametrize("steps", [20, pytest.param(80, marks=pytest.mark.slow)])
def test_counts_are_correct_while_six_processes_write(
    store: Store, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cached = open_cache(sources.load_settings({"store.url": store_url}, environ={}), pytest.fail)
    posts.create(store, create_user(store, "editor", Role.EDITOR), title="First", content="x", publish=True)
    users = [create_user(store, f"user{number}") for number in range(WRITERS)]
    writers = [
        FORKSERVER.Process(target=_write, args=(store_url, str(tmp_path / "cache"), user, number, steps))
        for number, user in enumerate(users)
    ]
    for writer in writers:
        writer.start()
    checks = 0
    while any(writer.is_alive() for writer in writers) or not checks:
        checks += _check_home(store, cached)
        _check_images(store)

    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    assert _check_home(store, cached)
    assert posts.view(store, ANONYMOUS, "1").views == WRITERS * steps + 1
    assert _check_images(store) == set(image_names(store))


def _check_home(store: Store, cached: Cached) -> bool:
    """Check the home page, with and without the cache.

    Returns whether it could be checked: nothing was written meanwhile.
    """
    before = _expected(store)
    pages = [home(store, ANONYMOUS, cached), home(store, ANONYMOUS)]
    if _expected(store) != before:
        return False
    for page in pages:
        assert (page.mailings, page.active_mailings, page.unique_clients, len(page.posts)) == before[:4]
    return True


def _expected(store: Store) -> tuple[int, ...]:
    """Return the correct counts, and values that change with each write."""
    with store.read() as db:
        counts = db.execute(text(COUNTS_SQL)).one()
        posts = db.scalar(
            text("SELECT count(*) FROM (SELECT id FROM post WHERE published_at IS NOT NULL LIMIT 3) AS shown")
        )
        stamps = "SELECT audience_version, posts_version, (SELECT max(id) FROM client) FROM store_info"
        return (*counts, posts, *db.execute(text(stamps)).one())


def _check_images(store: Store) -> set[str]:
    """Check that the image of each post exists, while nobody can write. Returns the names of the images."""
    with store.write() as db:
        names = set(db.scalars(text("SELECT DISTINCT image FROM post WHERE image IS NOT NULL")))
        assert names <= set(image_names(store))
        return names
