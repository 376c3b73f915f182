"""Test the emails about accounts, in each language."""

from collections.abc import Iterator
from email import message_from_bytes
from email.policy import default

import pytest

from skychimp import shell
from skychimp.services.accounts import account_mail
from skychimp.services.accounts.email_kinds import KINDS_WITH_CODE, EmailKind
from skychimp.translation import use_language

CODE = "ABCDE-FGHJK"
LONG_ADDRESS = f"{'a' * 60}@{'b' * 60}.example.org"


@pytest.fixture
def in_russian() -> Iterator[None]:
    use_language("ru")
    yield
    use_language("en")


def compose(kind: EmailKind, to: str = "ada@example.org") -> tuple[str, str, str]:
    """Return the subject, the text and the HTML of an email."""
    data = account_mail.compose(
        kind, sender="News <news@example.org>", return_path="news@example.org", to=to, code=CODE, role="manager"
    )
    email = message_from_bytes(data, policy=default)
    text, html = (email.get_body((kind,)) for kind in ("plain", "html"))
    assert text is not None
    assert html is not None
    return email["Subject"], text.get_content(), html.get_content()


@pytest.mark.parametrize("kind", EmailKind)
def test_email_is_in_the_language_of_the_process(kind: EmailKind, in_russian: None) -> None:
    subject, text, html = compose(kind)

    use_language("en")
    english = compose(kind)
    assert all(in_russian != in_english for in_russian, in_english in zip((subject, text, html), english, strict=True))
    assert "Skychimp" in subject
    assert text.splitlines()[0] == "Здравствуйте!"
    assert '<html lang="ru">' in html
    assert (CODE in text) == (kind in KINDS_WITH_CODE)
    assert (CODE in html) == (kind in KINDS_WITH_CODE)


@pytest.mark.parametrize("language", ["en", "ru"])
@pytest.mark.parametrize("kind", EmailKind)
def test_lines_are_short_but_commands_stay_whole(kind: EmailKind, language: str, in_russian: None) -> None:
    use_language(language)

    _, text, _ = compose(kind, LONG_ADDRESS)

    lines = text.splitlines()
    assert all(len(line) <= account_mail.LINE_LENGTH or line.startswith("    skychimp ") for line in lines)
    if kind is EmailKind.NO_ACCOUNT:
        assert f"    {shell.command('register', '--email', LONG_ADDRESS)}" in lines
