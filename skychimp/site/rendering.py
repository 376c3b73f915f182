"""Make the environment that renders the templates, in the language in which text is shown."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from skychimp.text import thousands
from skychimp.translation import looked_up, translated, trn

TEMPLATES = Path(__file__).parent / "templates"


def make_environment(**filters: Any) -> Environment:
    """Return an environment whose templates call gettext, with these filters besides `number` and `translated`."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    environment.install_gettext_callables(looked_up, _plural, newstyle=True)  # type: ignore[attr-defined]
    environment.filters |= {"number": _number, "translated": translated} | filters
    return environment


def _number(number: int) -> str:
    return translated(thousands(number))


def _plural(one: str, many: str, number: int) -> str:
    return translated(trn(one, many, number))
