"""Show, change or delete one object or several of one kind: the rules for all commands that take several names.

The caller has found all objects before (`services.listing.find_all`), so that an unknown name changes nothing.
One object is shown as ever. Several are a list in JSON and in a pipe. A terminal shows a line for each change.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from skychimp.cli.context import Context
from skychimp.errors import InvalidValue
from skychimp.text import count_of
from skychimp.translation import Phrase, tr

Object = TypeVar("Object")

_DONE: Mapping[str, Callable[[Phrase], tuple[Phrase, Phrase]]] = {
    "blocked": lambda what: (tr("blocked {object}", object=what), tr("not blocked: {object}", object=what)),
    "deleted": lambda what: (tr("deleted {object}", object=what), tr("not deleted: {object}", object=what)),
    "disabled": lambda what: (tr("disabled {object}", object=what), tr("not disabled: {object}", object=what)),
    "enabled": lambda what: (tr("enabled {object}", object=what), tr("not enabled: {object}", object=what)),
    "unblocked": lambda what: (tr("unblocked {object}", object=what), tr("not unblocked: {object}", object=what)),
    "updated": lambda what: (tr("updated {object}", object=what), tr("not updated: {object}", object=what)),
}
"""What is said of each change that was made, and of one that was not."""


@dataclass(frozen=True)
class Kind(Generic[Object]):
    """How objects of one kind are shown.

    `describe` returns a few words about one, such as `client 7, ada@example.org`. `show` shows one, `columns` are those
    of a list. `json` returns what a list in JSON has of one.
    """

    describe: Callable[[Object], Phrase]
    show: Callable[[Object], None]
    columns: Mapping[str, str]
    json: Callable[[Object], Any] = lambda each: each


def require_one(targets: Sequence[object], **options: object) -> None:
    """Raise InvalidValue if an option is given that is for one object only, and several are named.

    The options are named as the parameters that have them, such as `body_file`.
    """
    for name, value in options.items():
        if len(targets) > 1 and value is not None and value is not False:
            option = f"--{name.replace('_', '-')}"
            raise InvalidValue(tr("{option} cannot be used for several at once", option=option), tr("name only one"))


def show_all(
    context: Context, targets: Sequence[Object], kind: Kind[Object], *, has_own_headings: bool = False
) -> None:
    """Show objects one after the other, on a terminal with a heading for each, unless `kind.show` shows one."""
    if context.out.json and len(targets) != 1:
        context.out.rows(list(map(kind.json, targets)), {})
        return
    for number, target in enumerate(targets):
        if context.out.on_terminal:
            if len(targets) > 1 and not has_own_headings:
                context.out.heading(kind.describe(target))
        elif number:
            context.out.text("")
        kind.show(target)


def change_all(
    context: Context, done: str, targets: Sequence[Object], change: Callable[[Object], Object], kind: Kind[Object]
) -> list[Object]:
    """Change objects, show them, and return them as they are then. `done` is what was done, such as "updated".

    If one cannot be changed, those before it are shown, and the others are named. Raises what `change` raises.
    """
    return _change_all(context, done, targets, change, kind, has_line=len(targets) > 1)


def delete_all(
    context: Context,
    noun: str,
    targets: Sequence[Object],
    remove: Callable[[Object], Object],
    kind: Kind[Object],
    *,
    yes: bool,
) -> list[Object]:
    """Delete objects, after asking once, and show and return them as `change_all` does.

    A terminal shows a line also for a single one. Raises what `Context.confirm` and `remove` raise.
    """
    what = kind.describe(targets[0]) if len(targets) == 1 else count_of(len(targets), noun)
    context.confirm(tr("delete {object}", object=what), yes=yes)
    return _change_all(context, "deleted", targets, remove, kind, has_line=True)


def _change_all(
    context: Context,
    done: str,
    targets: Sequence[Object],
    change: Callable[[Object], Object],
    kind: Kind[Object],
    *,
    has_line: bool,
) -> list[Object]:
    changed: list[Object] = []
    try:
        changed.extend(map(change, targets))
    finally:
        if has_line and context.out.on_terminal and not context.out.json:
            for each in changed:
                context.out.text(_DONE[done](kind.describe(each))[0])
        elif len(targets) > 1:
            context.out.rows(map(kind.json, changed) if context.out.json else changed, kind.columns)
        elif changed:
            kind.show(changed[0])
        if len(targets) > 1 and not context.out.json:
            for target in targets[len(changed) :]:
                context.out.note(_DONE[done](kind.describe(target))[1])
    return changed
