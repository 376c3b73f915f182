"""Six processes change clients, mailings and posts: each sees at once what it wrote, and others see the truth."""

import io
import os
import random
from multiprocessing import get_context
from pathlib import Path

import pytest
from conftest import enrol
from PIL import Image
from sqlalchemy import text

from skychimp.config import sources
from skychimp.delivery.composing.compose import MessageContent
from skychimp.models import Every, Format, Role
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.blog import images, posts
from skychimp.services.clients import clients
from skychimp.services.mailings import mailings
from skychimp.services.mailings.mailings import Audience, When
from skychimp.services.messages import messages
from skychimp.services.reporting.cache import Cache, Cached
from skychimp.services.reporting.home import Home, home
from skychimp.store.database import Store
from skychimp.store.schema import open_store

WRITERS = 6
CHANGES = 40
FORKSERVER = get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    [__name__, "skychimp.services.reporting.home", "skychimp.services.reporting.cache_folder", "PIL.Image"]
)

FIGURES = """
    SELECT count(*), count(*) FILTER (WHERE disabled_at IS NULL AND status <> 'completed'),
        (SELECT count(DISTINCT address_key) FROM client WHERE EXISTS (SELECT * FROM mailing
            WHERE mailing.owner_id = client.owner_id AND deleted_at IS NULL AND (all_clients OR EXISTS (
                SELECT * FROM mailing_tag JOIN client_tag USING (tag)
                WHERE mailing_id = mailing.id AND client_id = client.id))))
    FROM mailing WHERE deleted_at IS NULL"""
"""The figures, in words of their own; no mailing here has an end or names a client."""


class Writer:
    """One process's own clients, mailings and posts, and what it knows of them."""

    def __init__(self, path: str, actor: Actor, number: int) -> None:
        self.store = open_store(f"sqlite:///{path}")
        self.cached = Cache(sources.load({"store.url": path}, environ={}), _complain).cached
        self.actor, self.chance = actor, random.Random(number)
        self.editor = Actor(actor.user_id, actor.email, Role.EDITOR)
        self.message = messages.create(self.store, actor, MessageContent("Hello", "Hello", Format.TEXT)).id
        self.clients: dict[int, bool] = {}
        """Whether each has the tag."""
        self.mailings: dict[int, tuple[bool, bool]] = {}
        """Whether each is active, and whether it is for all or for those with the tag."""
        self.posts: list[str] = []

    def work(self) -> None:
        steps = [self.add_client, self.add_client, self.remove_client, self.tag, self.add_mailing, self.switch,
                 self.remove_mailing, self.add_post, self.remove_post]  # fmt: skip
        for number in range(CHANGES):
            self.chance.choice(steps)(number)
            self.check(home(self.store, self.actor, self.cached))
            posts.view(self.store, ANONYMOUS, "1")
        self.store.close()

    def check(self, page: Home) -> None:
        assert page.yours is not None
        seen = (page.yours.mailings, page.yours.active_mailings, page.yours.unique_clients, page.yours.clients)
        tagged = sum(self.clients.values())
        reached = [len(self.clients) if for_all else tagged for _, for_all in self.mailings.values()]
        active = sum(is_active for is_active, _ in self.mailings.values())
        assert seen == (len(self.mailings), active, max(reached, default=0), len(self.clients))

    def add_client(self, number: int) -> None:
        tagged = number % 2 == 0
        email = f"{number}@example.org"  # another writer has it, too
        made = clients.create(self.store, self.actor, email=email, tags=["tag"] if tagged else [])
        self.clients[made.id] = tagged

    def remove_client(self, _: int) -> None:
        if self.clients:
            gone = self.chance.choice(list(self.clients))
            clients.remove(self.store, self.actor, str(gone))
            del self.clients[gone]

    def tag(self, number: int) -> None:
        if self.clients:
            chosen = self.chance.choice(list(self.clients))
            self.clients[chosen] = number % 3 == 0
            clients.change(self.store, self.actor, str(chosen), tags=["tag"] if self.clients[chosen] else [])

    def add_mailing(self, number: int) -> None:
        for_all = number % 3 == 0
        audience = Audience(True) if for_all else Audience(tags=["tag"])
        when = When("2030-01-01 09:00", None, Every.DAY, "UTC")
        made = mailings.create(self.store, self.actor, message_id=self.message, when=when, audience=audience)
        self.mailings[made.id] = (True, for_all)

    def switch(self, _: int) -> None:
        if self.mailings:
            chosen = self.chance.choice(list(self.mailings))
            is_active, for_all = self.mailings[chosen]
            (mailings.disable if is_active else mailings.enable)(self.store, self.actor, chosen)
            self.mailings[chosen] = (not is_active, for_all)

    def remove_mailing(self, _: int) -> None:
        if self.mailings:
            gone = self.chance.choice(list(self.mailings))
            mailings.remove(self.store, self.actor, gone)
            del self.mailings[gone]

    def add_post(self, number: int) -> None:
        made = posts.create(
            self.store, self.editor, title="The same", content="x", image=_image(number % 2), publish=number % 5 > 0
        )
        self.posts.append(made.slug)

    def remove_post(self, _: int) -> None:
        if self.posts:
            posts.remove(self.store, self.editor, self.posts.pop(0))


def _complain(words: str) -> None:
    raise AssertionError(words)


def _image(number: int) -> images.Image:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number * 100, 0, 0)).save(file, "PNG")
    return images.made_anew(file.getvalue())


def _write(path: str, cache: str, actor: Actor, number: int) -> None:
    os.environ["XDG_CACHE_HOME"] = cache
    Writer(path, actor, number).work()


def test_all_is_true_and_nothing_is_lost(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cached = Cache(sources.load({"store.url": str(store.path)}, environ={}), pytest.fail).cached
    posts.create(store, enrol(store, "editor", Role.EDITOR), title="First", content="x", publish=True)
    users = [enrol(store, f"user{number}") for number in range(WRITERS)]
    writers = [
        FORKSERVER.Process(target=_write, args=(str(store.path), str(tmp_path / "cache"), user, number))
        for number, user in enumerate(users)
    ]
    for writer in writers:
        writer.start()
    looked = 0
    while any(writer.is_alive() for writer in writers) or not looked:
        looked += _look(store, cached)
        _look_at_images(store)

    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    assert _look(store, cached)
    assert posts.view(store, ANONYMOUS, "1").views == WRITERS * CHANGES + 1
    assert _look_at_images(store) == {file.name for file in images.folder(store).iterdir()}


def _look(store: Store, cached: Cached) -> bool:
    """Look at the page, from the cache and counted anew; whether nobody wrote meanwhile, so that it had to be true."""
    before = _truth(store)
    pages = [home(store, ANONYMOUS, cached), home(store, ANONYMOUS)]
    if _truth(store) != before:
        return False
    for page in pages:
        assert (page.mailings, page.active_mailings, page.unique_clients, len(page.posts)) == before[:4]
    return True


def _truth(store: Store) -> tuple[int, ...]:
    """The figures, and what no write leaves as it was."""
    with store.read() as db:
        figures = db.execute(text(FIGURES)).one()
        posts = db.scalar(text("SELECT min(count(*), 3) FROM post WHERE published_at NOT NULL"))
        stamps = "SELECT audience_version, posts_version, (SELECT max(id) FROM client) FROM store_info"
        return (*figures, posts, *db.execute(text(stamps)).one())


def _look_at_images(store: Store) -> set[str]:
    """The images of all posts: while nobody can write, each of them is there."""
    with store.write() as db:
        named = set(db.scalars(text("SELECT DISTINCT image FROM post WHERE image NOT NULL")))
        assert all(posts.image_path(store, name).exists() for name in named)
        return named
