"""Keep the translations up to date: find what can be translated, merge it into the catalogs, and compile them.

cd tests && python -m support.translations    updates skychimp/locale
"""

import ast
import inspect
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po
from jinja2.ext import babel_extract
from typer import rich_utils

from skychimp.cli import help_pages, registry
from skychimp.translation import DOMAIN, FOLDER, LANGUAGES

Message = str | tuple[str, str]
"""A text, or a singular and its plural."""

_UNUSED = (b'"Report-Msgid', b'"PO-Revision', b'"Last-Translator', b'"Language-Team', b'"Generated-By')
"""Parts of a catalog's header that change each time or say nothing."""

PACKAGE = Path(registry.__file__).parents[1]


def main() -> None:
    """Update and compile the catalog of each language."""
    for language in LANGUAGES[1:]:
        catalog = read_catalog(language)
        update(catalog)
        po_path(language).write_bytes(as_po(catalog))
        po_path(language).with_suffix(".mo").write_bytes(as_mo(catalog))
        missing = [message.id for message in catalog if message.id and not all(translations(message))]
        print(f"{language}: {len(catalog)} messages, {len(missing)} not translated")


def update(catalog: Catalog) -> None:
    """Give a catalog all that can be translated, and nothing else."""
    created_at = catalog.creation_date
    catalog.update(template(), no_fuzzy_matching=True)
    catalog.obsolete.clear()
    catalog.creation_date = created_at  # the catalog changes only if a text does


def po_path(language: str) -> Path:
    """Return where the catalog of a language is."""
    return Path(FOLDER, language) / "LC_MESSAGES" / f"{DOMAIN}.po"


def read_catalog(language: str) -> Catalog:
    """Return the catalog of a language."""
    path = po_path(language)
    return read_po(BytesIO(path.read_bytes()), language, DOMAIN)


def as_po(catalog: Catalog) -> bytes:
    """Return a catalog as it is kept: without what changes each time."""
    opened = BytesIO()
    write_po(opened, catalog, width=120, sort_by_file=True, include_lineno=False)
    header, separator, messages = opened.getvalue().partition(b"\n\n")
    return b"\n".join(line for line in header.split(b"\n") if not line.startswith(_UNUSED)) + separator + messages


def as_mo(catalog: Catalog) -> bytes:
    """Return a catalog compiled, as gettext reads it."""
    opened = BytesIO()
    write_mo(opened, catalog)
    return opened.getvalue()


def originals(message: Any) -> list[str]:
    """Return the text of a message, or its singular and plural."""
    return list(message.id) if message.pluralizable else [message.id]


def translations(message: Any) -> list[str]:
    """Return the translation of a message, in each form that the language has for numbers."""
    return list(message.string) if message.pluralizable else [message.string]


def template() -> Catalog:
    """Return a catalog of all that can be translated, with the files that say it."""
    catalog = Catalog(domain=DOMAIN)
    for message, place in (*_messages_of_code(), *_messages_of_templates(), *_messages_of_help()):
        if _has_words(message):
            catalog.add(message, locations=[(place, 0)])
    return catalog


def _has_words(message: Message) -> bool:
    """Return whether there is anything to translate besides the values."""
    texts = [message] if isinstance(message, str) else message
    return any(part.isalpha() for text in texts for part in _without_values(text))


def _without_values(text: str) -> str:
    depth, kept = 0, []
    for character in text:
        depth += (character == "{") - (character == "}")
        if not depth:
            kept.append(character)
    return "".join(kept)


def _messages_of_code() -> Iterator[tuple[Message, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE.parent).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                texts = [arg.value if isinstance(arg, ast.Constant) else None for arg in node.args]
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                yield from ((message, place) for message in _messages_of_call(name, texts, node.keywords))


def _messages_of_call(name: str, texts: list[Any], keywords: list[ast.keyword]) -> Iterator[Message]:
    match name, texts:
        case "tr", [str(message), *_] if message:
            yield message
        case "trn", [str(one), str(many), *_]:
            yield one, many
        case "count_of", [_, str(noun)]:
            yield _counted(noun, f"{noun}s")
        case "count_of", [_, str(noun), str(plural)]:
            yield _counted(noun, plural)
        case _:
            given = {
                each.arg: ast.literal_eval(each.value) for each in keywords if isinstance(each.value, ast.Constant)
            }
            if named := given.get("noun"):
                many = given.get("plural") or f"{named}s"
                yield _counted(named, many)
                yield f"no matching {many}"


def _counted(noun: str, plural: str) -> Message:
    """Return the message of `skychimp.text.count_of`."""
    return f"{{number:,}} {noun}", f"{{number:,}} {plural}"


def _messages_of_templates() -> Iterator[tuple[Message, str]]:
    options = {"extensions": "jinja2.ext.i18n", "trimmed": "true", "newstyle_gettext": "true"}
    for path in sorted(PACKAGE.rglob("templates/*")):
        place = path.relative_to(PACKAGE.parent).as_posix()
        for _, name, message, _ in babel_extract(BytesIO(path.read_bytes()), ("gettext", "ngettext", "_"), [], options):
            texts = [message] if isinstance(message, str) else [text for text in message or () if text]
            yield (texts[0], texts[1]) if name == "ngettext" else texts[0], place


def _messages_of_help() -> Iterator[tuple[Message, str]]:
    place = "skychimp/cli/help_pages.py"
    for text in (help_pages.USAGE, help_pages.OPTIONS, help_pages.COMMANDS, "Show this message and exit."):
        yield text, place
    for name in help_pages.RICH_TEXTS:
        yield getattr(rich_utils, name), place
    root = registry.command_line()
    yield from _help_of(root, "skychimp/cli/registry.py")
    for name, info in registry.COMMANDS.items():
        yield info.summary, "skychimp/cli/registry.py"
        yield info.panel, "skychimp/cli/registry.py"
        yield from _help_of(registry.load_command(name), f"skychimp/cli/commands/{name}.py")


def _help_of(command: Any, place: str) -> Iterator[tuple[Message, str]]:
    for each in (command, *(help_pages.subcommands(command).values() if place.count("/") > 2 else ())):
        texts = [inspect.cleandoc(each.help or ""), getattr(each, "rich_help_panel", None)]
        for param in each.params:
            texts += [getattr(param, "help", None), getattr(param, "rich_help_panel", None)]
        yield from ((text, place) for text in texts if text)


if __name__ == "__main__":
    main()
