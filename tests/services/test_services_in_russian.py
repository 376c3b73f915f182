"""Test that what services say can be translated as a whole, with all that is in it."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from skychimp import addresses
from skychimp.durations import format_ago
from skychimp.errors import SkychimpError
from skychimp.permissions import Action, Actor, authorize
from skychimp.return_rates import Limits, ReturnCounts
from skychimp.roles import Role
from skychimp.services.clients.files.opt_outs import explain, find_columns
from skychimp.services.listing import not_found
from skychimp.services.mailings.forecast import BEYOND_LIMIT, kind_of_reason
from skychimp.services.messages.attachments import AttachmentInfo
from skychimp.services.messages.checks.links import check_links
from skychimp.services.messages.checks.shown_parts import read_html
from skychimp.services.messages.checks.texts import HTML
from skychimp.services.reporting.returns import report_rates
from skychimp.translation import translated, use_language


@pytest.fixture(autouse=True)
def in_russian() -> Iterator[None]:
    use_language("ru")
    yield
    use_language("en")


def error_of(do: Callable[[], object]) -> str:
    with pytest.raises(SkychimpError) as caught:
        do()
    return caught.value.message


@pytest.mark.parametrize(
    ("make", "english", "russian"),
    [
        (lambda: format_ago(timedelta(days=21)), "21 days ago", "21 день назад"),
        (lambda: format_ago(timedelta(minutes=4)), "4 min ago", "4 мин назад"),
        (
            lambda: error_of(lambda: authorize(Actor(1, "", Role.EDITOR), Action.SEE_CLIENTS)),
            "an editor may not see clients",
            "роль editor не даёт права просматривать клиентов",
        ),
        (
            lambda: error_of(lambda: addresses.parse("a b@x.org")),
            'invalid email address "a b@x.org": The email address contains invalid characters before the @-sign: SPACE',
            'недопустимый адрес "a b@x.org": недопустимые символы перед знаком @: SPACE',
        ),
        (
            lambda: error_of(lambda: addresses.parse("a@[1.2.3.4]")),
            'invalid email address "a@[1.2.3.4]": A bracketed IP address after the @-sign is not allowed here',
            'недопустимый адрес "a@[1.2.3.4]": A bracketed IP address after the @-sign is not allowed here',
        ),
        (
            lambda: next(reason for _, reason in ReturnCounts(1_000, 0, 100, 0).why_too_high(Limits())),
            "10 % of its emails bounced (100 of 1,000), the limit is 5 %",
            "возвратов 10 % (100 из 1\N{NO-BREAK SPACE}000), предел — 5 %",
        ),
        (
            lambda: report_rates(ReturnCounts(21, 0, 1, 0))[0].in_words,
            "4.8 % (1 of 21 emails)",
            "4.8 % (1 из 21 письма)",
        ),
        (lambda: not_found("mailing", 5).message, "mailing 5 not found", "рассылка 5 не найдена"),
        (lambda: kind_of_reason(BEYOND_LIMIT), "beyond --limit", "сверх --limit"),
        (lambda: kind_of_reason("deferred: next try at noon"), "deferred", "deferred"),
        (
            lambda: str(AttachmentInfo("a.png", "image/png", 2, source="a.png")),
            "a.png (image/png, 2 bytes, inline)",
            "a.png (image/png, 2 байта, встроенная картинка)",
        ),
        (
            lambda: explain(find_columns(["unsubscribed", "bounced"], [0, 1]))[0],
            'columns "unsubscribed" and "bounced" mark who has opted out',
            'кто отписался, отмечено в столбцах "unsubscribed" и "bounced"',
        ),
        (
            lambda: next(check_links(read_html('<a href="http://x.org">x</a>'), HTML)).found,
            '"http://x.org" is not encrypted',
            '"http://x.org" без шифрования',
        ),
    ],
)
def test_text_is_english_and_can_be_shown_in_russian(make: Callable[[], str], english: str, russian: str) -> None:
    text = make()

    assert text == english
    assert translated(text) == russian
