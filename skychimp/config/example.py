"""Generate the text of skychimp.example.toml."""

import json
from collections.abc import Mapping
from datetime import timedelta

from pydantic.fields import FieldInfo

from skychimp.config.settings import SECTIONS
from skychimp.config.types import ByteSize
from skychimp.durations import format_duration

_INTRODUCTION = """\
# Settings of Skychimp with their default values. An environment variable such as SKYCHIMP_SMTP__HOST
# overrides this file. A command-line option overrides both."""


def example_config(values: Mapping[str, object] | None = None, comments: Mapping[str, str] | None = None) -> str:
    """Return a config file with every setting, its meaning and its default.

    `values` maps names such as `mail.sender` to values that are set in place of the defaults. A setting that has no
    fixed default is shown as a comment. `comments` adds a line to some settings.
    """
    lines = [_INTRODUCTION]
    for section, model in SECTIONS.items():
        lines += ["", f"[{section}]"]
        for key, field in model.model_fields.items():
            value, is_set = _value(field, (values or {}).get(f"{section}.{key}"))
            comment = (comments or {}).get(f"{section}.{key}")
            lines += [f"# {field.description}", *([f"# {comment}"] if comment else [])]
            lines.append(f"{'' if is_set else '# '}{key} = {_to_toml(value)}")
    return "\n".join(lines) + "\n"


def _value(field: FieldInfo, chosen: object) -> tuple[object, bool]:
    """Return the value that is shown for a setting, and whether it is set or an example in a comment."""
    if chosen is not None:
        return chosen, True
    default = field.get_default(call_default_factory=False)
    if default is None or field.default_factory is not None:
        return (field.examples or [""])[0], False
    return default, True


def _to_toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_to_toml(key)} = {_to_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_to_toml, value)) + "]"
    if isinstance(value, timedelta):
        value = format_duration(value)
    elif isinstance(value, ByteSize):
        value = str(value)
    text = json.dumps(value if isinstance(value, str | int | float) else str(value), ensure_ascii=False)
    return text.replace("\x7f", r"\u007f")  # the one character that is allowed in JSON strings but not in TOML
