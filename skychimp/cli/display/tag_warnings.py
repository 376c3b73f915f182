"""Warn about tags that no client has, which are probably mistyped."""

from collections.abc import Sequence

from skychimp.cli.context import Context
from skychimp.translation import tr


def warn_of_unknown_tags(context: Context, tags: Sequence[str]) -> None:
    """Show a warning for each tag that none of the user's clients has. Raises InvalidValue for an invalid tag."""
    if not tags:
        return
    from skychimp.services.clients.unknown_tags import find_unknown_tags

    for tag, meant in find_unknown_tags(context.store, context.actor, tags):
        if meant:
            warning = tr(
                'warning: no client has the tag "{tag}"; did you mean "{suggestion}"?', tag=tag, suggestion=meant
            )
        else:
            warning = tr('warning: no client has the tag "{tag}"', tag=tag)
        context.out.warn(warning)
