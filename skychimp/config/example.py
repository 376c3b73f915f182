"""The text of skychimp.example.toml."""

import json
from collections.abc import Mapping
from datetime import timedelta

from skychimp.config.settings import SECTIONS
from skychimp.config.types import Rate
from skychimp.durations import format_duration


def example_config(said: Mapping[str, str] | None = None) -> str:
    """The text of skychimp.example.toml: every setting with its meaning and default, and those of `said` set."""
    lines = [
        "# Skychimp's settings, each with its default. An environment variable such as SKYCHIMP_SMTP__HOST wins",
        "# over this file, a flag over both.",
    ]
    for section, model in SECTIONS.items():
        lines += ["", f"[{section}]"]
        for key, field in model.model_fields.items():
            default = field.get_default(call_default_factory=False)
            if f"{section}.{key}" in (said or {}):
                value, off = (said or {})[f"{section}.{key}"], ""
            elif default is None or field.default_factory is not None:
                value, off = (field.examples or [""])[0], "# "
            else:
                value, off = default, ""
            lines += [f"# {field.description}", f"{off}{key} = {_toml(value)}"]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, tuple) and not isinstance(value, Rate):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, timedelta):
        value = format_duration(value)
    text = json.dumps(value if isinstance(value, str | int | float) else str(value), ensure_ascii=False)
    return text.replace("\x7f", r"\u007f")  # the one character that JSON lets through and TOML does not
