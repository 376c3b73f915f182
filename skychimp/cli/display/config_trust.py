"""Ask or warn about a config in the current folder that is not trusted."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from skychimp.cli.output import YES
from skychimp.errors import ConfigError
from skychimp.shell import command
from skychimp.text import shortened
from skychimp.translation import tr, verbatim

if TYPE_CHECKING:
    from skychimp.cli.output import Output
    from skychimp.config.config_file import UntrustedConfig
    from skychimp.config.trust import ConfigFiles

_DECIDING = (
    "mail.transport", "smtp.host", "smtp.port", "smtp.security", "smtp.username", "smtp.password_file",
    "smtp.token_command", "smtp.ca_file", "dkim.key_file", "store.url", "cache.url",
    "monitor.ping_url", "monitor.metrics_file",
)  # fmt: skip
"""The settings that decide where emails, secrets and data go, and which command is run."""


def decide(out: "Output", untrusted: "UntrustedConfig", *, can_ask: bool) -> bool:
    """Return whether the user trusts a config. If they do not, or cannot be asked, say what is used instead."""
    if can_ask and untrusted.read is not None and _ask(out, untrusted.read):
        return True
    other_file = untrusted.instead
    instead = tr("using {other_file}", other_file=other_file) if other_file else tr("using no config file")
    if untrusted.problem is None:
        out.warn(
            tr(
                '{path} is not trusted: {instead} (run "{command}" to trust it)',
                path=untrusted.path,
                instead=instead,
                command=command("trust"),
            )
        )
    else:
        out.warn(
            tr(
                "{path} is not trusted: {instead} ({problem})",
                path=untrusted.path,
                instead=instead,
                problem=untrusted.problem,
            )
        )
    return False


def deciding_settings(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a config that decide where emails, secrets and data go, without passwords."""
    from skychimp.config.locations import hide_password, hide_path

    hide = {"monitor.ping_url": hide_path}
    return {name: hide.get(name, hide_password)(str(values[name])) for name in _DECIDING if name in values}


def _ask(out: "Output", read: "ConfigFiles") -> bool:
    from skychimp.config import sources

    try:
        values = deciding_settings(sources.file_values(read))
    except ConfigError as error:
        out.warn(error.message)
        return False
    if values:
        out.warn(tr("{path} is not trusted yet. It sets:", path=read.path))
    else:
        out.warn(tr("{path} is not trusted yet. It sets no mail server and no store.", path=read.path))
    for name, value in values.items():
        out.warn(verbatim(f"  {name} = {shortened(value, 200)}"))
    return out.ask(tr("Trust {file_name}? [y/N]", file_name=os.path.basename(read.path))).lower() in YES
