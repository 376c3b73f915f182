"""Show text in the reader's language.

What Skychimp says to a person is a Phrase: English text that remembers how it was made. Only what shows it to a person
translates it, so JSON, logs and the store are in English, whatever the language is. The translations are in `locale`,
in gettext's format.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gettext import GNUTranslations

    from jinja2 import Environment

LANGUAGES = ("en", "ru")
DOMAIN, FOLDER = "skychimp", os.path.join(os.path.dirname(__file__), "locale")
VARIABLE = "SKYCHIMP_LANG"
"""The environment variable that says the language."""

_NO_LOCALE = ("C", "POSIX")
_catalog: "GNUTranslations | None" = None


class Phrase(str):
    """English text that can be translated.

    `message` is what is looked up, with `values` in its braces. `plural` is the message for numbers other than one.
    """

    __slots__ = ("message", "plural", "values")

    message: str
    plural: str | None
    values: Mapping[str, Any]

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, handler: Callable[[type], Any]) -> Any:
        """Be a string in JSON Schemas."""
        return handler(str)


def tr(message: str, /, **values: object) -> Phrase:
    """Return a message with values in the place of its `{names}`. Without values, braces stand for themselves."""
    phrase = Phrase(message.format_map(values) if values else message)
    phrase.message, phrase.plural, phrase.values = message, None, values
    return phrase


def trn(one: str, many: str, number: int, /, **values: object) -> Phrase:
    """Return one of two messages by a number, which is also their value `{number}`."""
    values["number"] = number
    phrase = Phrase((one if number == 1 else many).format_map(values))
    phrase.message, phrase.plural, phrase.values = one, many, values
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
        message = _catalog.ngettext(text.message, text.plural, text.values["number"])
    else:
        message = looked_up(text.message)
    if not text.values:
        return message
    return message.format_map({name: _translated_value(name, value) for name, value in text.values.items()})


def looked_up(text: str) -> str:
    """Return the translation of a plain text, such as the help of an option, in the reader's language."""
    return text if _catalog is None or not text else _catalog.gettext(text)


def translate_templates(environment: "Environment") -> None:
    """Translate what is in `{% trans %}` in the templates of an environment."""
    environment.add_extension("jinja2.ext.i18n")
    environment.policies["ext.i18n.trimmed"] = True
    environment.install_gettext_callables(looked_up, _looked_up_plural, newstyle=True)  # type: ignore[attr-defined]


def use_language(language: str) -> None:
    """Show text in a language from now on: one of LANGUAGES. Without its catalog, it is English."""
    global _catalog
    _catalog = None
    if language != "en":
        from gettext import translation

        with suppress(OSError):
            _catalog = translation(DOMAIN, FOLDER, [language])


@contextmanager
def in_language(language: str) -> Iterator[None]:
    """Show text in a language, one of LANGUAGES, until the end of the block."""
    global _catalog
    before = _catalog
    try:
        use_language(language)
        yield
    finally:
        _catalog = before


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


def _looked_up_plural(one: str, many: str, number: int) -> str:
    if _catalog is None:
        return one if number == 1 else many
    return _catalog.ngettext(one, many, number)


class _Integer(int):
    """A number whose thousands are separated by spaces, as in most languages but English."""

    def __format__(self, form: str) -> str:
        return super().__format__(form).replace(",", "\N{NO-BREAK SPACE}")


class _Float(float):
    """The same for a number that has decimals, after a comma."""

    def __format__(self, form: str) -> str:
        return super().__format__(form).replace(",", "\N{NO-BREAK SPACE}").replace(".", ",")


def _translated_value(name: str, value: object) -> object:
    if name == "strerror":  # what the operating system says
        return looked_up(str(value))
    if isinstance(value, str):
        return translated(value)
    if isinstance(value, float):
        return _Float(value)
    return _Integer(value) if type(value) is int else value


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


SYSTEM_REASONS = (
    tr("Permission denied"),
    tr("Operation not permitted"),
    tr("No such file or directory"),
    tr("File exists"),
    tr("Not a directory"),
    tr("Is a directory"),
    tr("No space left on device"),
    tr("Disk quota exceeded"),
    tr("Read-only file system"),
    tr("File name too long"),
    tr("Too many open files"),
    tr("Too many levels of symbolic links"),
    tr("Input/output error"),
    tr("Connection refused"),
    tr("Address already in use"),
    tr("Cannot assign requested address"),
)
"""What the operating system says most often (errno(3))."""
