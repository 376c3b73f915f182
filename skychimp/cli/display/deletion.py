"""Ask before something is deleted, delete it, and say what was deleted."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from skychimp.cli.context import Context
from skychimp.text import count_of
from skychimp.translation import tr

Object = TypeVar("Object")


def delete_all(
    context: Context,
    noun: str,
    targets: Sequence[Object],
    *,
    describe: Callable[[Object], str],
    remove: Callable[[Object], Object],
    columns: Mapping[str, str],
    show: Callable[[Object], None],
    yes: bool,
) -> list[Object]:
    """Delete objects of one kind, after asking once, and return each of them once.

    A terminal shows one line for each, a pipe what `show` prints of a single one, or a list. What was deleted before an
    error is shown too. Raises what `Context.confirm` and `remove` raise.
    """
    targets = [target for number, target in enumerate(targets) if target not in targets[:number]]
    what = describe(targets[0]) if len(targets) == 1 else count_of(len(targets), noun)
    context.confirm(tr("delete {what}", what=what), yes=yes)
    deleted: list[Object] = []
    try:
        deleted.extend(map(remove, targets))
    finally:
        if context.out.on_terminal and not context.out.json:
            for each in deleted:
                context.out.text(f"deleted {describe(each)}")
        elif len(targets) > 1:
            context.out.rows(deleted, columns)
        elif deleted:
            show(deleted[0])
    return deleted
