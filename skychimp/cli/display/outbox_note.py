"""Say that emails were only written to the outbox, and how to send them."""

from skychimp.cli.context import Context
from skychimp.shell import run_hint
from skychimp.translation import Phrase, tr


def show_outbox_note(context: Context, written: int, *, others_sent: bool = False) -> None:
    """Say that `written` emails are in the outbox, if any are. `others_sent` says whether other emails were sent."""
    if not written:
        return
    if others_sent:
        note = tr("{number:,} written to the outbox; they have not left this machine", number=written)
    else:
        note = tr("{number:,} written to the outbox; nothing has left this machine", number=written)
    context.out.note(note)
    context.out.note(tr("hint: {hint}", hint=how_to_send(context)))


def how_to_send(context: Context) -> Phrase:
    """Return what a person has to do, so that the emails in the outbox are sent."""
    run = run_hint("run", "--from-outbox")
    if context.settings.mail.transport == "smtp":
        return run
    return tr("{setting}, then {run}", setting=how_to_leave_the_outbox(context), run=run)


def how_to_leave_the_outbox(context: Context) -> Phrase:
    """Return which setting makes emails go to the mail server, and its file."""
    file = context.settings.config_file
    if file:
        return tr('set mail.transport = "smtp" in {file}', file=file)
    return tr('set mail.transport = "smtp"')
