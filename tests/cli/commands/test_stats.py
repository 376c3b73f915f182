"""Test `skychimp stats` as JSON, in a pipe and on a terminal of 80 columns."""

import re
from datetime import datetime
from pathlib import Path

import pytest
from conftest import create_user
from support.command import Home
from support.queue_steps import NOW, create_client, create_mailing, update_row
from support.returned import bounce, return_path, send_mailing
from support.stores import store_environ

from skychimp.config.settings import InboundSettings
from skychimp.models import Occurrence, Role
from skychimp.permissions import Actor
from skychimp.services.blog import posts
from skychimp.services.inbound import processing
from skychimp.services.inbound.processing import ReceivedMail
from skychimp.store.database import Store

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def guest(store: Store, tmp_path: Path) -> Home:
    (tmp_path / "guest").mkdir()
    return Home(tmp_path / "guest", **store_environ(store))


@pytest.fixture
def _filled(store: Store, ada: Actor) -> None:
    editor = create_user(store, "editor", Role.EDITOR)
    create_client(store, ada, "zoe")
    create_mailing(store, ada)
    create_mailing(store, ada, disabled_at=NOW, disabled_reason="too many [b]\u202e failures")
    for number in range(4):
        title = f"Post {number} " + "of many words " * 10 + "\u202e"
        posts.create(store, editor, title=title.strip(), content="x", publish=True)


@pytest.mark.usefixtures("_filled")
def test_json_fields(guest: Home, home: Home) -> None:
    page = guest.call("stats", "--json").json

    assert {name: page[name] for name in ("mailings", "active_mailings", "unique_clients")} == {
        "mailings": 2, "active_mailings": 1, "unique_clients": 1,
    }  # fmt: skip
    assert datetime.fromisoformat(page["as_of"]).utcoffset() is not None
    assert len(page["posts"]) == 3
    assert {"id", "slug", "title", "views", "published_at"} < set(page["posts"][0])
    assert (page["yours"], page["attention"]) == (None, [])
    mine = home.call("stats", "--json").json
    assert (mine["yours"]["mailings"], mine["yours"]["clients"]) == (2, 1)
    assert [concern["command"] for concern in mine["attention"]] == ["skychimp report 2"]


def test_empty_store(guest: Home) -> None:
    page = guest.call("stats", "--json").json

    assert (page["mailings"], page["active_mailings"], page["unique_clients"], page["posts"]) == (0, 0, 0, [])
    assert "no posts yet" in guest.on_terminal("stats").out


@pytest.mark.usefixtures("_filled")
def test_pipe_gets_one_line_per_item(home: Home) -> None:
    lines = [line.split("\t") for line in home.call("stats").out.splitlines()]

    figures = {line[0]: line[1] for line in lines if len(line) == 2}
    assert (figures["mailings"], figures["active_mailings"], figures["unique_clients"]) == ("2", "1", "1")
    assert (figures["your_mailings"], figures["your_clients"]) == ("2", "1")
    posts = [line for line in lines if line[0] == "post"]
    assert len(posts) == 3
    assert all(len(post) == 6 and post[3].endswith("\\u202e") for post in posts)
    (concern,) = (line for line in lines if line[0] == "attention")
    assert concern[1:] == [
        "disabled", "mailing 2 was disabled by the system: too many [b]\\u202e failures", "skychimp report 2",
    ]  # fmt: skip


@pytest.mark.usefixtures("_filled")
def test_page_fits_a_terminal_of_80_columns(home: Home) -> None:
    done = home.on_terminal("stats", environ={"COLORTERM": "truecolor"})
    lines = ESCAPES.sub("", done.out).splitlines()

    assert done.status == 0
    assert max(map(len, lines)) <= 80
    for text in ("active", "unique clients", "Posts", "Your mailings", "Needs attention", "skychimp report 2", "[b]"):
        assert any(text in line for line in lines), text
    assert "\u202e" not in done.out


@pytest.mark.usefixtures("_filled")
def test_fresh_bypasses_the_cache(guest: Home) -> None:
    first, second = (guest.call("stats", "--json").json["as_of"] for _ in range(2))
    fresh = guest.call("stats", "--fresh", "--json").json["as_of"]

    assert first == second < fresh
    assert guest.call("stats", "--json").json["as_of"] == first


@pytest.mark.usefixtures("_filled")
def test_next_command_sees_every_change(home: Home) -> None:
    assert home.call("stats", "--json").json["unique_clients"] == 1
    assert home.call("clients", "create", "--email", "yan@example.org").status == 0
    assert home.call("stats", "--json").json["unique_clients"] == 2
    assert home.call("mailings", "delete", "1", "--yes").status == 0
    assert home.call("mailings", "delete", "2", "--yes").status == 0
    page = home.call("stats", "--json").json
    assert (page["mailings"], page["active_mailings"], page["unique_clients"]) == (0, 0, 0)


def test_unwritable_cache_is_a_warning(guest: Home) -> None:
    (guest.folder / "cache").write_text("a file where the folder should be")
    done = guest.call("stats", "--json", environ={"XDG_CACHE_HOME": str(guest.folder / "cache")})

    assert (done.status, done.json["mailings"]) == (0, 0)
    assert done.err.count("cannot use the cache") == 1
    quiet = guest.call("-q", "stats", environ={"XDG_CACHE_HOME": str(guest.folder / "cache")})
    assert (quiet.status, quiet.err) == (0, "")


def test_store_is_required(tmp_path: Path) -> None:
    assert Home(tmp_path).call("stats").status == 3


def test_own_rates_are_shown_beside_the_published_limits(store: Store, ada: Actor, home: Home) -> None:
    first, *_ = send_mailing(store, ada, "bob", "eve", "grace", "zoe")
    update_row(store, Occurrence, 1, opened_at=store.now())
    lines = home.call("stats").out
    assert "\nyour_bounce_rate\t0.0\nyour_complaint_rate\t0.0\n" in lines
    data = bounce("bob@example.org", "550 5.1.1 no such user")
    processing.process(store, InboundSettings(), [ReceivedMail(data, return_path(store, first))])

    bounces, complaints = home.call("stats", "--json").json["yours"]["rates"]
    assert (bounces["kind"], bounces["emails"], bounces["of"], bounces["rate"]) == ("bounces", 1, 4, 0.25)
    assert (complaints["kind"], complaints["rate"], complaints["advised"], complaints["limit"]) == (
        "complaints", 0.0, 0.001, 0.003,
    )  # fmt: skip
    page = ESCAPES.sub("", home.call("stats", width=100).out)
    assert "bounces in 30 days: 25 % (1 of 4 emails)  keep below 5 %, never reach 10 % (Amazon SES)" in page
    assert "complaints in 30 days: 0 % (0 of 4 emails)" in page
