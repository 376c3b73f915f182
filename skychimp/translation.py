"""Show text in the reader's language.

What Skychimp says to a person is a Phrase: English text that remembers how it was made. Only what shows it to a person
translates it, so JSON, logs and the store are in English, whatever the language is. The translations are in `locale`,
in gettext's format.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gettext import GNUTranslations

LANGUAGES = ("en", "ru")
DOMAIN, FOLDER = "skychimp", Path(__file__).with_name("locale")
VARIABLE = "SKYCHIMP_LANG"
"""The environment variable that says the language."""

_NO_LOCALE = ("C", "POSIX")
_catalog: "GNUTranslations | None" = None


class Phrase(str):
    """English text that can be translated.

    `message` is what is looked up, with `values` in its braces, and `plural` the message for other numbers than one.
    """

    __slots__ = ("message", "number", "plural", "values")

    message: str
    plural: str | None
    number: int
    values: Mapping[str, object]


def tr(message: str, /, **values: object) -> Phrase:
    """Return a message with values in the place of its `{names}`. Without values, braces stand for themselves."""
    phrase = Phrase(message.format_map(values) if values else message)
    phrase.message, phrase.plural, phrase.number, phrase.values = message, None, 1, values
    return phrase


def trn(one: str, many: str, number: int, /, **values: object) -> Phrase:
    """Return one of two messages by a number, which is also their value `{number}`."""
    values["number"] = number
    phrase = Phrase((one if number == 1 else many).format_map(values))
    phrase.message, phrase.plural, phrase.number, phrase.values = one, many, number, values
    return phrase


def verbatim(text: str) -> Phrase:
    """Return a text that is the same in all languages, such as a name or a command."""
    return tr("{text}", text=text)


def joined(separator: str, parts: Iterable[str]) -> Phrase:
    """Return phrases joined with a separator. Empty ones are left out."""
    values = {f"part_{number}": part for number, part in enumerate(filter(None, parts))}
    return tr(separator.join(f"{{{name}}}" for name in values), **values)


def translated(text: str) -> str:
    """Return a phrase in the reader's language. Other text is returned as it is."""
    if _catalog is None or not isinstance(text, Phrase):
        return text
    if text.plural is not None:
        message = _catalog.ngettext(text.message, text.plural, text.number)
    else:
        message = looked_up(text.message)
    if not text.values:
        return message
    return message.format_map({name: _translated_value(value) for name, value in text.values.items()})


def looked_up(text: str) -> str:
    """Return the translation of a plain text, such as the help of an option, in the reader's language."""
    return text if _catalog is None or not text else _catalog.gettext(text)


def use_language(language: str) -> None:
    """Show text in a language from now on: one of LANGUAGES."""
    global _catalog
    if language == "en":
        _catalog = None
        return
    from gettext import translation

    _catalog = translation(DOMAIN, FOLDER, [language])


def current_language() -> str:
    """Return the language in which text is shown."""
    return "en" if _catalog is None else _catalog.info()["language"]


def wanted_language(arguments: Sequence[str], environ: Mapping[str, str]) -> str:
    """Return the language of the reader: that of `--lang`, of SKYCHIMP_LANG or of the locale, else English."""
    wanted = _option(arguments) or environ.get(VARIABLE)
    if wanted:
        return wanted if wanted in LANGUAGES else "en"
    locale = environ.get("LC_ALL") or environ.get("LC_MESSAGES") or environ.get("LANG") or "C"
    if locale.partition(".")[0] in _NO_LOCALE:
        return "en"
    names = [*environ.get("LANGUAGE", "").split(":"), locale]  # as GNU gettext reads them
    codes = [name.replace(".", "_").replace("@", "_").partition("_")[0].lower() for name in names]
    return next((code for code in codes if code in LANGUAGES), "en")


class _Number(int):
    """A number whose thousands are separated by spaces, as in most languages but English."""

    def __format__(self, form: str) -> str:
        return super().__format__(form).replace(",", "\N{NO-BREAK SPACE}")


def _translated_value(value: object) -> object:
    if isinstance(value, str):
        return translated(value)
    return _Number(value) if type(value) is int else value


def _option(arguments: Sequence[str]) -> str | None:
    """Return the value of `--lang` before the command, where Typer has not read the arguments yet."""
    rest = iter(arguments)
    for word in rest:
        if word == "--lang":
            return next(rest, None)
        if word.startswith("--lang="):
            return word.removeprefix("--lang=")
        if word in ("--config", "--store"):
            next(rest, None)
        elif not word.startswith("-"):
            break
    return None
