"""Errors stay translatable where they pass through a library, a table or the store, or are made of others."""

import errno
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skychimp import translation
from skychimp.config.sources import load_settings
from skychimp.delivery.composing.conversions import MarkedTemplate
from skychimp.delivery.composing.layouts.inlining import inline_css
from skychimp.delivery.composing.templates import TextTemplate, split_template
from skychimp.delivery.sending.refusals.remedies import SENDER, without_doctor
from skychimp.errors import InvalidQuery, SkychimpError, StoreNotReady
from skychimp.store import holds, schema
from skychimp.store.clients.queries import parser
from skychimp.store.clients.queries.syntax import Known
from skychimp.store.copies.backup_file import restore_backup
from skychimp.store.database import Store
from skychimp.translation import tr, translated
from skychimp.transport.smtp_connection import describe_error
from skychimp.transport.smtp_protocol import ProtocolError

NO_FIELDS = Known({}, lambda mailing_id: False)
REFUSED = "Connect call failed ('127.0.0.1', 1)"


@pytest.fixture(autouse=True)
def _russian() -> Iterator[None]:
    translation.use_language("ru")
    yield
    translation.use_language("en")


@pytest.mark.parametrize(
    ("do", "message", "hint"),
    [
        (
            lambda: load_settings(environ={"SKYCHIMP_MAIL__TRANSPORT": "fax", "SKYCHIMP_CONFIG": "/dev/null"}),
            'недопустимое значение mail.transport: "fax" (источник: SKYCHIMP_MAIL__TRANSPORT, переменные окружения)',
            "укажите 'outbox' или 'smtp'",
        ),
        (
            lambda: load_settings(environ={"SKYCHIMP_SMTP__PORT": "x", "SKYCHIMP_CONFIG": "/dev/null"}),
            'недопустимое значение smtp.port: "x" (источник: SKYCHIMP_SMTP__PORT, переменные окружения)',
            "укажите целое число от 1 до 65535",
        ),
        (
            lambda: TextTemplate("{{ client.nme }}", tr("subject"), {}),
            "тема, строка 1: неизвестный атрибут client.nme; возможно, вы имели в виду name?",
            'выполните "skychimp help templates"',
        ),
        (
            lambda: inline_css(MarkedTemplate(split_template("<style>p{top:0}</style><p><b>x</p>")), tr("layout")),
            "макет: не удалось встроить CSS: строка 1: </p> стоит раньше, чем закрыт <b>",
            'исправьте это или напишите <style data-css-inline="ignore">, чтобы оставить CSS на месте',
        ),
    ],
)
def test_error_is_translated_with_its_parts(do: Callable[[], object], message: str, hint: str) -> None:
    with pytest.raises(SkychimpError) as raised:
        do()
    assert (translated(raised.value.message), translated(raised.value.hint or "")) == (message, hint)


def test_problem_of_a_query_is_translated_with_its_parts() -> None:
    with pytest.raises(InvalidQuery) as raised:
        parser.parse("email = 5", NO_FIELDS)
    shown = (translated(raised.value.problem), translated(raised.value.hint or ""))
    assert shown == ("email — это адрес", "сравнивайте так: адрес в кавычках, например 'ada@example.org'")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, REFUSED), "в соединении отказано"),
        (ProtocolError(tr("reply too long")), "слишком длинный ответ"),
        (OSError(errno.EIO, "Odd device"), "odd device"),
    ],
)
def test_error_of_a_connection_is_translated_if_it_is_known(error: Exception, text: str) -> None:
    assert translated(describe_error(error)) == text


def test_remedy_without_doctor_is_translated() -> None:
    assert translated(SENDER) == 'проверьте mail.sender и его домен: выполните "skychimp doctor"'
    assert translated(without_doctor(SENDER)) == "проверьте mail.sender и его домен"


def test_reason_of_a_hold_is_kept_in_english_and_translated(store: Store) -> None:
    with store.write() as db:
        holds.hold(db.connection(), holds.AFTER_RESTORE, datetime.now(UTC), blind=True)
    with store.read() as db:
        reason = holds.why_held(db.connection())
    assert (reason, translated(reason or "")) == ("after a restore", "после восстановления")


def test_error_about_the_copy_of_a_backup_names_the_backup(tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    schema.create_store(f"sqlite:///{backup}").close()
    with closing(sqlite3.connect(backup)) as db, db:
        db.execute("CREATE TABLE extra (id INTEGER)")
    with pytest.raises(StoreNotReady) as raised:
        restore_backup(backup, tmp_path / "store.db", tmp_path / "aside.db", lambda db, images: None, print)
    assert raised.value.message == 'the backup is not a valid store: unknown table "extra"'
    assert translated(raised.value.message) == 'резервная копия: хранилище с ошибками: неизвестно: table "extra"'
