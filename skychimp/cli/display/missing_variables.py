"""Warn of settings that are only in the environment: a service would not have them."""

from collections.abc import Sequence

from skychimp.cli.context import Context
from skychimp.translation import tr

PASSWORD_FILES = ("smtp.password_file", "store.password_file", "inbound.password_file")
"""Settings that the units of the system carry."""


def warn_of_missing_variables(context: Context, carried: Sequence[str] = ()) -> list[str]:
    """Return a line for each variable of the environment that the service would lack, and show them on stderr.

    `carried` are settings that it gets otherwise.
    """
    from skychimp.config import sources

    names = [sources.variable(each) for each in sources.only_in_environment(context.settings) if each not in carried]
    lines = [f"{name} is only in your environment; the service does not have it" for name in names]
    for line in lines:
        context.out.warn(tr("warning: {line}", line=line))
    if lines:
        config = context.settings.config_file
        context.out.note(f"hint: set {'it' if len(lines) == 1 else 'them'} in {config or 'a config file'}")
    return lines
