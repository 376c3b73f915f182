"""The `skychimp clients update` command: change one client, several, or all of a query or segment."""

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from skychimp import shell
from skychimp.cli.context import Context, Json, Yes, get_context
from skychimp.cli.display.tag_warnings import warn_of_unknown_tags
from skychimp.cli.options.client_options import (
    COLUMNS,
    AcceptUnusual,
    address_rules,
    parse_fields,
    read_selection,
    show_client,
    warn_if_suppressed,
)
from skychimp.cli.options.consent_options import Consent, ConsentAt, ConsentProof, read_consent
from skychimp.errors import InvalidValue
from skychimp.text import count_of
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.services.clients.clients import Change, TagChange
    from skychimp.services.clients.consents import GivenConsent
    from skychimp.services.clients.selection import Selection

EXAMPLES = (
    "skychimp clients update 7 --name 'Ada King'\nskychimp clients update 7 8 ada@example.org --add-tag vip\n"
    "skychimp clients update --where \"created_at < '-365d'\" --add-tag old --yes"
)

MOST_IDS_SHOWN = 20
"""How many ids a command has that is shown to be pasted."""


def update(
    ctx: typer.Context,
    client: Annotated[
        list[str] | None, typer.Argument(metavar="CLIENT...", help="Client IDs or email addresses.", show_default=False)
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help='All clients that this query chooses (see "skychimp help queries").', metavar="EXPR"),
    ] = None,
    segment: Annotated[
        str | None, typer.Option("--segment", help="All clients in this segment.", metavar="NAME")
    ] = None,
    email: Annotated[str | None, typer.Option(help="New email address.")] = None,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    comment: Annotated[str | None, typer.Option(help="New comment.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="New tag; replaces all tags (repeatable).")] = None,
    add_tag: Annotated[list[str] | None, typer.Option(help="Add a tag (repeatable).", metavar="TAG")] = None,
    remove_tag: Annotated[list[str] | None, typer.Option(help="Remove a tag (repeatable).", metavar="TAG")] = None,
    no_tags: Annotated[bool, typer.Option("--no-tags", help="Remove all tags.")] = False,
    field: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Set a field (repeatable). KEY= without a value removes the value."),
    ] = None,
    good: Annotated[bool, typer.Option("--good", "--clear-bad", help="Mark the address as good again.")] = False,
    consent: Consent = None,
    consent_at: ConsentAt = None,
    consent_proof: ConsentProof = None,
    accept_unusual: AcceptUnusual = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Change a client. A new address counts as good, and has no consent of the old one.

    With several clients, change the tags and fields of all of them, record a consent, or mark their addresses as good.
    So do --where and --segment. A consent is added to those recorded before.
    """
    from skychimp.services.clients import clients

    context = get_context(ctx, json)
    if (tag is not None) + no_tags + bool(add_tag or remove_tag) > 1:
        raise InvalidValue(
            tr("--tag, --no-tags and --add-tag or --remove-tag cannot be combined"),
            tr("use --tag to replace all tags, or --add-tag and --remove-tag to change some"),
        )
    selection = read_selection(context, where, segment)
    if bool(client) == (selection is not None):
        problem = tr("CLIENT and --where or --segment cannot be combined") if client else tr("no client selected")
        raise InvalidValue(problem, tr("use CLIENT, or --where and --segment"))
    client = client or []
    if len(client) != 1 and (email is not None or name is not None or comment is not None):
        raise InvalidValue(tr("--email, --name and --comment change one client"), tr("name only one client"))
    warn_of_unknown_tags(context, remove_tag or [])
    values: _NewValues = {
        "tags": [] if no_tags else tag,
        "add_tags": add_tag or [],
        "remove_tags": remove_tag or [],
        "fields": parse_fields(field),
        "good": good,
        "consent": read_consent(context, consent, consent_at, consent_proof),
    }
    if selection is not None:
        _change_selected(context, selection, values, yes=yes)
        return
    if len(client) > 1:
        _show_changes(context, clients.change_several(context.store, context.actor, client, **values))
        return
    old = [] if tag is None else clients.show(context.store, context.actor, client[0]).tags
    changed = clients.change(
        context.store,
        context.actor,
        client[0],
        email=email,
        name=name,
        comment=comment,
        rules=address_rules(context, accept_unusual),
        **values,
    )
    show_client(context, vars(changed))
    if removed := [each for each in old if each not in changed.tags]:
        context.out.note(tr("replaced: {removed}; use --add-tag to keep a client's tags", removed=", ".join(removed)))
    if good or email is not None:
        warn_if_suppressed(context, changed)


def _show_changes(context: Context, changes: Sequence["Change"]) -> None:
    """Show clients that were changed together, how many have other tags or fields now, and how to take that back."""
    from skychimp.services.clients.clients import tag_change

    context.out.rows([change.new for change in changes], COLUMNS)
    by_undo: dict[tuple[str, ...], list[int]] = {}
    for change in changes:
        undo = _undo(tag_change(change))
        undo += tuple(chain.from_iterable(("--field", text) for text in _old_fields(change)))
        if undo:
            by_undo.setdefault(undo, []).append(change.new.id)
    number = sum(map(len, by_undo.values()))
    what = "tags or fields" if any(old.fields != new.fields for old, new in changes) else "tags"
    context.out.note(
        tr(
            "{clients} of {number:,} got other {what}",
            clients=count_of(number, "client"),
            number=len(changes),
            what=what,
        )
    )
    for options, ids in by_undo.items():
        context.out.note(tr("to take it back: {command}", command=shell.command("clients", "update", *ids, *options)))


class _NewValues(TypedDict):
    """What to change of one or several clients."""

    tags: list[str] | None
    add_tags: list[str]
    remove_tags: list[str]
    fields: dict[str, str]
    good: bool
    consent: "GivenConsent | None"


def _change_selected(context: Context, selection: "Selection", values: _NewValues, *, yes: bool) -> None:
    """Change the clients of a query or segment, after asking, and tell how to take that back."""
    from skychimp.services.clients import clients

    number = clients.count(context.store, context.actor, None, selection)
    if not any(values.values()) and values["tags"] is None:
        options = "--tag, --add-tag, --remove-tag, --no-tags, --field, --consent or --good"
        raise InvalidValue(tr("nothing to change"), tr("use {options}", options=options))
    if number:
        warning = tr(" (the old values of the fields are lost)") if values["fields"] else ""
        context.confirm(tr("change {clients}{warning}", clients=count_of(number, "client"), warning=warning), yes=yes)
    with context.out.progress("changing", number, delay_s=1) as report_progress:
        result = clients.change_selected(
            context.store,
            context.actor,
            selection,
            **values,
            on_batch=lambda done: report_progress(done, "clients", number),
        )
    changed = sum(map(len, result.changed.values()))
    context.out.record({"selected": result.selected, "other_tags": changed})
    if changed or not (values["fields"] or values["good"] or values["consent"]):
        context.out.note(
            tr(
                "{clients} of {selected:,} got other tags",
                clients=count_of(changed, "client"),
                selected=result.selected,
            )
        )
    for difference, ids in result.changed.items():
        _explain_undo(context, difference, ids, selection)


def _explain_undo(context: Context, difference: "TagChange", ids: list[int], selection: "Selection") -> None:
    """Tell how to take back a change of these clients' tags: by their ids, or by a query if one chooses just them."""
    from skychimp.services.clients.selection import find_query_of

    undo = _undo(difference)
    if len(ids) <= MOST_IDS_SHOWN:
        context.out.note(tr("to take it back: {command}", command=shell.command("clients", "update", *ids, *undo)))
        return
    queries = ["tag = '{}'".format(tag.replace("'", "''")) for tag in difference.added]
    queries += [selection.where] if selection.where is not None and selection.segment is None else []
    query = find_query_of(context.store, context.actor, ids, queries, selection.timezone)
    if query is not None:
        context.out.note(
            tr("to take it back: {command}", command=shell.command("clients", "update", "--where", query, *undo))
        )
    else:
        words = [f"added {', '.join(difference.added)}"] if difference.added else []
        words += [f"removed {', '.join(difference.removed)}"] if difference.removed else []
        context.out.note(
            tr(
                "{clients}: {words}; no query finds exactly these clients",
                clients=count_of(len(ids), "client"),
                words=", ".join(words),
            )
        )


def _undo(difference: "TagChange") -> tuple[str, ...]:
    """Return the options that take back a change of tags."""
    removed = (("--remove-tag", tag) for tag in difference.added)
    return tuple(chain(chain.from_iterable(removed), *(("--add-tag", tag) for tag in difference.removed)))


def _old_fields(change: "Change") -> list[str]:
    """Return the fields that have changed as KEY=VALUE with the old values."""
    from skychimp.fields import format_value

    old, new = change.old.fields, change.new.fields
    names = sorted({name for name, _ in old.items() ^ new.items()})
    return [f"{name}={format_value(old.get(name, ''))}" for name in names]
