"""Variants of messages: written, counted, checked, deleted, and copied with the store."""

import io
from contextlib import closing
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from support.sending import make_settings, rows

from skychimp.config.types import parse_size
from skychimp.delivery.composing.compose import MessageContent
from skychimp.errors import Conflict, InvalidValue, NotFound
from skychimp.models import EmailLanguage, Every, Format, Message, MessageVariant, StoredFile
from skychimp.permissions import Actor
from skychimp.services.clients import clients
from skychimp.services.mailings import mailings, unsubscribing
from skychimp.services.mailings.audience_input import Audience
from skychimp.services.mailings.schedules import ScheduleInput
from skychimp.services.messages import checking, layouts, messages, rendering, variants
from skychimp.services.messages.attachments import AttachmentChanges, NewFile
from skychimp.services.messages.variants import VariantChanges, VariantCount
from skychimp.services.operations import store_copy
from skychimp.services.users import privacy
from skychimp.store.copies import backup_file
from skychimp.store.database import Store
from skychimp.store.schema import open_store

NEWS = MessageContent("News", "# News for {{ client.email }}", Format.MARKDOWN)
PEOPLE = {"ann": "ru", "bob": "ru-RU", "cid": "RU", "dan": "de", "eve": "rubbish", "fay": ""}


def create(store: Store, actor: Actor, content: MessageContent = NEWS, **options: Any) -> int:
    return messages.create(store, actor, content, **{"variant_by": "lang"} | options).id


def change(store: Store, actor: Actor, value: str = "ru", **changes: Any) -> variants.VariantInfo:
    return variants.set_variant(store, actor, 1, value, VariantChanges(**changes))


@pytest.fixture
def people(store: Store, ada: Actor) -> None:
    for name, lang in PEOPLE.items():
        clients.create(store, ada, email=f"{name}@x.org", fields={"lang": lang})


def create_mailing(store: Store, actor: Actor) -> int:
    schedule = ScheduleInput("now", None, Every.ONCE, "UTC")
    return mailings.create(store, actor, message_id=1, schedule=schedule, audience=Audience(all_clients=True)).id


@pytest.mark.usefixtures("people")
def test_variant_is_written_shown_counted_and_deleted(store: Store, ada: Actor, bob: Actor) -> None:
    create(store, ada, variant_by="LANG")
    clients.create(store, bob, email="other@x.org", fields={"lang": "ru"})
    assert messages.show(store, ada, 1).variant_by == "lang"
    made = change(store, ada, "ru", subject="Новости", body="# Новости")
    assert (made.value, made.subject, made.format, made.layout, made.clients) == (
        "ru", "Новости", Format.MARKDOWN, "default", 3,
    )  # fmt: skip
    change(store, ada, "ru-ru", subject="Новости России", body="# Россия")
    change(store, ada, "De", subject="Neues", body="# Neues")
    assert variants.count(store, messages.show(store, ada, 1)) == variants.VariantCounts(
        [VariantCount("De", "Neues", 1), VariantCount("ru", "Новости", 2), VariantCount("ru-ru", "Новости России", 1)],
        2,
    )
    shown = {name: rendering.preview(store, ada, 1, f"{name}@x.org").subject for name in PEOPLE}
    assert shown == {
        "ann": "Новости", "bob": "Новости России", "cid": "Новости", "dan": "Neues", "eve": "News", "fay": "News",
    }  # fmt: skip
    assert rendering.preview(store, ada, 1, variant="DE").subject == "Neues"
    assert rendering.preview(store, ada, 1, "ann@x.org", variant="de").text == "Neues\n"
    with pytest.raises(NotFound, match='message 1 has no variant "fr"'):
        rendering.preview(store, ada, 1, variant="fr")

    assert variants.remove(store, ada, 1, "RU").value == "ru"
    assert [each.value for each in variants.list_variants(store, ada, 1)] == ["De", "ru-ru"]
    with pytest.raises(NotFound):
        variants.remove(store, ada, 1, "ru")
    messages.change(store, ada, 1, no_variant_by=True)
    assert variants.count(store, messages.show(store, ada, 1)) is None
    assert rendering.preview(store, ada, 1, "dan@x.org").subject == "News"
    messages.change(store, ada, 1, variant_by="lang")
    assert rendering.preview(store, ada, 1, "dan@x.org").subject == "Neues"
    messages.remove(store, ada, 1)
    assert (rows(store, MessageVariant), rows(store, Message)) == ([], [])


def test_change_keeps_the_rest_and_a_variant_has_its_own_format_and_layout(store: Store, ada: Actor) -> None:
    layouts.create(store, ada, "own", "<b>{{ content }}</b>{{ preheader }}")
    create(store, ada, preheader="Look")
    made = change(store, ada, subject="Новости", body="*a*", preheader="Смотри")
    assert (made.preheader, made.layout) == ("Смотри", "default")
    assert messages.show(store, ada, 1).preheader == "Look"
    changed = change(store, ada, " RU ", layout="own")
    assert (changed.value, changed.subject, changed.body, changed.layout) == ("RU", "Новости", "*a*", "own")
    assert "<b><p><em>a</em></p></b>Смотри" in (rendering.preview(store, ada, 1, variant="ru").html or "")
    with pytest.raises(Conflict, match="layout own is used by message 1"):
        layouts.remove(store, ada, "own")
    with pytest.raises(InvalidValue, match="message 1 cannot use this layout: the layout has no"):
        layouts.change(store, ada, "own", html="{{ content }}")
    text = change(store, ada, format=Format.TEXT, preheader="")
    assert (text.format, text.html, text.layout) == (Format.TEXT, None, None)
    layouts.remove(store, ada, "own")
    page = change(store, ada, format=Format.HTML, html="<p>Привет</p>", body="")
    assert (page.body, page.layout) == ("Привет\n", "none")
    front = change(store, ada, body="---\nsubject: Из файла\nlayout: default\n---\nтекст", format=Format.MARKDOWN)
    assert (front.subject, front.layout, front.body) == ("Из файла", "default", "текст")


@pytest.mark.parametrize(
    ("value", "changes", "reason"),
    [
        ("", {"subject": "s", "body": "b"}, "the value is empty"),
        ("a\nb", {"subject": "s", "body": "b"}, "line break"),
        ("x" * 101, {"subject": "s", "body": "b"}, "100"),
        ("ru", {"body": "b"}, "the subject is empty"),
        ("ru", {"subject": "s", "body": "{{ client.nam }}"}, "unknown attribute client.nam"),
        ("ru", {"subject": "s", "body": "{{ client.fields.no }}"}, "unknown field no"),
        ("ru", {"subject": "s", "body": "{{ posts }}"}, "only a digest can contain"),
        ("ru", {"subject": "s", "body": "---\ndigest: true\n---\nb"}, "cannot say whether it is a digest"),
        ("ru", {"subject": "s", "body": "b", "format": Format.HTML}, "the HTML part is empty"),
        ("ru", {"subject": "s", "body": "![a](a.png)"}, "has no folder"),
        (
            "ru",
            {"subject": "s", "body": "b", "attached": AttachmentChanges(paths=["{{ client.email }}"])},
            "cannot attach a file of each client",
        ),
    ],
)
def test_refused_variant_changes_nothing(
    store: Store, ada: Actor, value: str, changes: dict[str, Any], reason: str
) -> None:
    create(store, ada)
    with pytest.raises(InvalidValue, match=reason):
        change(store, ada, value, **changes)
    assert rows(store, MessageVariant) == []


def test_message_must_say_which_field_chooses(store: Store, ada: Actor) -> None:
    create(store, ada, variant_by=None)
    with pytest.raises(InvalidValue) as refused:
        change(store, ada, subject="s", body="b")
    assert refused.value.hint == 'run "skychimp messages update 1 --variant-by lang"'
    with pytest.raises(InvalidValue, match="invalid field name"):
        messages.change(store, ada, 1, variant_by="my lang")
    assert variants.find_unknown_field(store, ada, "lang") == ""
    clients.create(store, ada, email="a@x.org", fields={"lang": "ru"})
    assert variants.find_unknown_field(store, ada, "Lang") is None
    assert "lang" in (variants.find_unknown_field(store, ada, "lnag") or "")


def test_variants_belong_to_the_owner_of_the_message(store: Store, ada: Actor, bob: Actor, manager: Actor) -> None:
    create(store, ada)
    change(store, ada, subject="s", body="b")
    for act in (variants.remove, variants.show):
        with pytest.raises(NotFound):
            act(store, bob, 1, "ru")
    with pytest.raises(NotFound):
        change(store, bob, subject="s", body="b")
    assert [each.value for each in variants.list_variants(store, manager, 1)] == ["ru"]


def test_limits_of_variants(store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    create(store, ada, NEWS._replace(format=Format.TEXT))
    monkeypatch.setattr(variants, "MOST_VARIANTS", 2)
    monkeypatch.setattr(variants, "MAX_SIZE", 1_000_000)
    change(store, ada, "a", subject="s", body="ё" * 99_000)
    change(store, ada, "b", subject="s", body="b")
    with pytest.raises(InvalidValue, match="at most 2 variants"):
        change(store, ada, "c", subject="s", body="b")
    monkeypatch.setattr(variants, "MAX_SIZE", 198_001)
    change(store, ada, "b", body="c")
    with pytest.raises(InvalidValue, match="the variants are larger than"):
        change(store, ada, "b", body="bb")
    assert [each.body[:3] for each in variants.list_variants(store, ada, 1)] == ["ёёё", "c"]


def test_two_changes_at_the_same_time_are_both_kept(store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    create(store, ada)
    change(store, ada, subject="old", body="old")
    write = variants._write

    def write_while_another_command_runs(*arguments: Any) -> Any:
        monkeypatch.undo()
        written = write(*arguments)
        change(store, ada, subject="other")
        return written

    monkeypatch.setattr(variants, "_write", write_while_another_command_runs)
    changed = change(store, ada, body="mine")
    assert (changed.subject, changed.body) == ("other", "mine")


# Files


def picture() -> bytes:
    raw = io.BytesIO()
    PIL.Image.new("RGB", (2, 2)).save(raw, "PNG")
    return raw.getvalue()


def test_variant_has_its_own_files_and_those_of_the_message(store: Store, ada: Actor) -> None:
    create(store, ada, attached=AttachmentChanges(files=[NewFile("terms.pdf", b"terms"), NewFile("a.pdf", b"a")]))
    added = AttachmentChanges(files=[NewFile("a.pdf", b"ru")], read_picture=lambda name: picture())
    made = change(store, ada, subject="s", body="![p](p.png)", attached=added)
    assert [info.name for info in made.attachments] == ["a.pdf", "p.png"]
    assert rendering.preview(store, ada, 1, variant="ru").attachments == ["terms.pdf", "a.pdf", "p.png"]
    email = rendering.compose_preview(store, ada, 1, variant="ru", sender="a@x.org", blog_url=None)
    assert (email.count(b"cid:"), email.count(b"Content-ID:")) == (1, 1)
    assert len(rows(store, StoredFile)) == 4
    too_large = AttachmentChanges(files=[NewFile("b.pdf", bytes(690))], max_size=parse_size("1 kB"))
    with pytest.raises(InvalidValue, match="variant ru: the attachments have"):
        messages.change(store, ada, 1, attached=too_large)
    change(store, ada, body="text", attached=AttachmentChanges(removes_all=True))
    assert sorted(file.content for file in rows(store, StoredFile)) == [b"a", b"terms"]
    change(store, ada, attached=AttachmentChanges(files=[NewFile("b.pdf", b"b")]))
    variants.remove(store, ada, 1, "ru")
    assert sorted(file.content for file in rows(store, StoredFile)) == [b"a", b"terms"]
    change(store, ada, subject="s", body="b", attached=AttachmentChanges(files=[NewFile("b.pdf", b"b")]))
    messages.remove(store, ada, 1)
    assert rows(store, StoredFile) == []


# Checks


@pytest.mark.usefixtures("people")
def test_missing_values_count_only_where_the_variant_needs_them(store: Store, ada: Actor) -> None:
    create(store, ada)
    clients.change(store, ada, "ann@x.org", fields={"city": "Riga"})
    change(store, ada, subject="s", body="{{ client.fields.city }}")
    with pytest.raises(InvalidValue, match="2 clients have no city"):
        create_mailing(store, ada)
    change(store, ada, "ru-ru", subject="s", body="b")
    with pytest.raises(InvalidValue, match="1 client has no city"):
        create_mailing(store, ada)
    clients.change(store, ada, "cid@x.org", fields={"city": "Riga"})
    assert create_mailing(store, ada)


def test_check_names_the_variant(store: Store, ada: Actor) -> None:
    create(store, ada, NEWS._replace(body="[a](https://)"))
    change(store, ada, "ru", subject="s", body="[a](https://) [b](http:///x)")
    change(store, ada, "de", subject="s", body="b")
    settings = make_settings(1)
    found = {(finding.variant, finding.about) for finding in checking.check(store, ada, 1, settings)}
    assert {each for each in found if each[1] == "link"} == {(None, "link"), ("ru", "link")}
    with store.write() as db:
        db.execute(
            MessageVariant.__table__.update()
            .where(MessageVariant.__table__.c.value == "de")
            .values(body="{{ client.nope }}")
        )
    broken = [each for each in checking.check(store, ada, 1, settings) if each.about == "content"]
    assert [each.variant for each in broken] == ["de"]


def test_link_in_a_variant_needs_the_setting(store: Store, ada: Actor) -> None:
    create(store, ada)
    change(store, ada, subject="s", body="{{ unsubscribe_url }}")
    with pytest.raises(InvalidValue, match="message 1 uses "):
        unsubscribing.check_message(store, ada, 1, make_settings(1))


def test_digest_has_posts_in_its_variants(store: Store, ada: Actor) -> None:
    create(store, ada, digest=True)
    change(store, ada, subject="s", body="Новое:\n\n{{ posts }}")
    assert rendering.preview(store, ada, 1, variant="ru").text.startswith("Новое:")
    with pytest.raises(InvalidValue, match="variant ru: only a digest can contain"):
        messages.change(store, ada, 1, digest=False)


@pytest.mark.usefixtures("people")
def test_words_of_layouts_are_in_the_language_of_the_settings(store: Store, ada: Actor) -> None:
    create(store, ada)
    change(store, ada, "en", subject="s", body="b")
    for variant, language, expected in [
        (None, "en", "en"), (None, "ru", "ru"), ("en", "ru", "en"), ("en", "en", "en"),
    ]:  # fmt: skip
        shown = rendering.preview(store, ada, 1, variant=variant, language=EmailLanguage(language))
        assert f'<html lang="{expected}"' in (shown.html or "")


# Copies


@pytest.mark.usefixtures("people")
def test_copies_and_exports_have_the_variants(store: Store, ada: Actor, admin: Actor, tmp_path: Path) -> None:
    create(store, ada)
    change(store, ada, subject="Новости", body="Привет")
    exported = {name: list(part) for name, part in privacy.export(store, ada) if name == "variants"}
    assert [(each["message_id"], each["value"], each["body"]) for each in exported["variants"]] == [(1, "ru", "Привет")]

    store_copy.copy_store(store, admin, f"sqlite:///{tmp_path}/copy.db", None)
    backup_file.write_backup(store, tmp_path / "b", lambda name: None, lambda done, total: None, replace=False)
    for name in ("copy.db", "b"):
        with closing(open_store(f"sqlite:///{tmp_path}/{name}")) as copy:
            assert rendering.preview(copy, ada, 1, "ann@x.org").subject == "Новости"


@pytest.mark.parametrize(
    ("of_client", "written", "kept"),
    [("1.5", "1.50", "1.5"), ("2", " 2.0", "2"), ("true", "TRUE", "true"), ("2026-12-01", "2026-12-01", "2026-12-01")],
)
def test_value_is_kept_as_that_of_clients_is_printed(
    store: Store, ada: Actor, of_client: str, written: str, kept: str
) -> None:
    clients.create(store, ada, email="ann@x.org", fields={"lang": of_client})
    create(store, ada)
    made = change(store, ada, written, subject="s", body="b")
    assert (made.value, made.clients) == (kept, 1)
    assert variants.find_draft(store, ada, 1, written).body == "b"
    assert change(store, ada, kept, subject="t").subject == "t"
    with pytest.raises(InvalidValue, match='"1,5" is not a '):
        change(store, ada, "1,5", subject="s", body="b")
