"""Make the environment that renders the templates, in the language in which text is shown."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from skychimp.text import thousands
from skychimp.translation import translate_templates, translated

TEMPLATES = Path(__file__).parent / "templates"


def make_environment(**filters: Any) -> Environment:
    """Return an environment whose templates are translated, with these filters besides `number` and `translated`."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    translate_templates(environment)
    environment.filters |= {"number": _number, "translated": translated} | filters
    return environment


def _number(number: int) -> str:
    return translated(thousands(number))
