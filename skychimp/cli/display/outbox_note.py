"""Say that emails were only written to the outbox, and how to send them."""

from skychimp.cli.context import Context
from skychimp.shell import run_hint
from skychimp.translation import Phrase, tr


def show_outbox_note(context: Context, written: int, *, others_sent: bool = False) -> None:
    """Say that `written` emails are in the outbox, if any are. `others_sent` says whether other emails were sent."""
    if not written:
        return
    left = "they have not left this machine" if others_sent else "nothing has left this machine"
    context.out.note(tr("{written:,} written to the outbox; {left}", written=written, left=left))
    context.out.note(tr("hint: {how_to_send}", how_to_send=how_to_send(context)))


def how_to_send(context: Context) -> Phrase:
    """Return what a person has to do, so that the emails in the outbox are sent."""
    run = run_hint("run", "--from-outbox")
    if context.settings.mail.transport == "smtp":
        return run
    return tr(
        "{how_to_leave_the_outbox}, then {run}", how_to_leave_the_outbox=how_to_leave_the_outbox(context), run=run
    )


def how_to_leave_the_outbox(context: Context) -> str:
    """Return which setting makes emails go to the mail server, and its file."""
    file = context.settings.config_file
    return f'set mail.transport = "smtp"{f" in {file}" if file else ""}'
