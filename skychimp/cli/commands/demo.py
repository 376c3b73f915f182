"""`skychimp demo`: show the main commands with a temporary store and a built-in mail server."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from email import message_from_bytes, policy
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from skychimp import shell
from skychimp.cli.context import Context, Json, get_context
from skychimp.cli.output import PIPE_CLOSED
from skychimp.errors import SkychimpError
from skychimp.text import count_of
from skychimp.translation import VARIABLE, Phrase, current_language, tr, verbatim

if TYPE_CHECKING:
    from skychimp.transport.demo_server import ReceivedEmail

app = typer.Typer(rich_markup_mode="rich", add_completion=False)

CLIENTS = """\
email,name,tags
ada@example.org,Ada Lovelace,vip
grace@example.org,Grace Hopper,
natalya@example.org,Наталья Бехтерева,
chien-shiung@example.org,吳健雄,vip
nobody@example.org,Moved Away,
"""
BODY = """\
Hello {{ client.name }},

this email is only for you: each client gets an email of their own.
{% if "vip" in client.tags %}
Thank you for being with us from the start.
{% endif %}
"""
SUBJECT = "Hello {{ client.name }}"

STEPS = (
    (
        tr("Create a config, a store and the first administrator."),
        ("init", "--email", "you@example.org", "--sender", "Skychimp <you@example.org>"),
    ),
    (tr("Import your clients."), ("clients", "import", "clients.csv")),
    (
        tr("Create a message. {{ client.name }} becomes each client's name."),
        ("messages", "create", "--subject", SUBJECT, "--body-file", "hello.txt"),
    ),
    (tr("Preview it for one client."), ("messages", "preview", "1", "--client", "grace@example.org")),
    (
        tr("Create a mailing. It starts now, so it is sent immediately."),
        ("mailings", "create", "--message", "1", "--start", "now", "--every", "month", "--all-clients"),
    ),
    (
        tr("Every attempt is logged with the server's reply. One address was refused. The others were not affected."),
        ("mailings", "log", "1"),
    ),
    (
        tr("A refused address is marked as bad. It gets no more email until you change it."),
        ("clients", "show", "nobody@example.org"),
    ),
    (tr("Show when the mailing is sent next."), ("mailings", "preview", "1", "--next", "3")),
    (tr("Run it again: nothing is sent twice."), ("run",)),
)  # fmt: skip


@app.command()
def demo(ctx: typer.Context, json: Json = False) -> None:
    """Show how Skychimp works, in a temporary store.

    Emails are sent by SMTP to a server inside this command. They are not delivered to anyone.
    """
    from skychimp.config import shared
    from skychimp.transport.demo_server import demo_server

    context = get_context(ctx, json)
    shared.require_operator(tr('run "skychimp demo"'), tr("run it on your own account"))
    with tempfile.TemporaryDirectory(prefix="skychimp-demo-") as name, demo_server() as server:
        folder = Path(name)
        (folder / "clients.csv").write_text(CLIENTS, encoding="utf-8")
        (folder / "hello.txt").write_text(BODY, encoding="utf-8")
        for title, arguments in STEPS:
            _run_step(context, title, arguments, folder, environment(folder, server.port))
        emails = list(server.emails)
    if context.out.json:
        commands = [shell.command(*arguments) for _, arguments in STEPS]
        context.out.record({"emails": len(emails), "letters": len(emails), "commands": commands})
    else:
        _show_result(context, emails)


def environment(folder: Path, port: int) -> Mapping[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SKYCHIMP_")}
    return inherited | {
        "SKYCHIMP_CONFIG": str(folder / "skychimp.toml"),
        VARIABLE: current_language(),
        "SKYCHIMP_STORE": str(folder / "skychimp.db"),
        "SKYCHIMP_MAIL__TRANSPORT": "smtp",
        "SKYCHIMP_SMTP__HOST": "127.0.0.1",
        "SKYCHIMP_SMTP__PORT": str(port),
        "SKYCHIMP_SMTP__SECURITY": "none",
        "XDG_STATE_HOME": str(folder / "state"),
    }


def _run_step(
    context: Context, title: Phrase, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> None:
    command = shell.command(*arguments)
    if not context.out.json:
        context.out.heading(title, verbatim(f"$ {command}"))
    quiet = ["-q"] if context.out.json or context.out.quiet else []
    program = [sys.executable, "-m", "skychimp", "--no-input", *quiet, *arguments]
    stdout = subprocess.DEVNULL if context.out.json else None
    done = subprocess.run(program, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, check=False)  # noqa: S603
    if done.returncode == PIPE_CLOSED:
        raise BrokenPipeError
    if done.returncode:
        raise SkychimpError(
            tr('demo failed: "{command}" exited with status {status}', command=command, status=done.returncode)
        )


def _show_result(context: Context, emails: "list[ReceivedEmail]") -> None:
    """Show the first email, its SMTP conversation, and how to begin."""
    email = message_from_bytes(emails[0].data, policy=policy.default)
    text = email.get_body(("plain",))
    context.out.heading(
        tr("What the mail server received"),
        tr("{emails}, one for each accepted recipient. The first:", emails=count_of(len(emails), "email")),
    )
    context.out.text("\n".join(f"{name}: {value}" for name, value in email.items()))
    context.out.text("\n" + (text.get_content().replace("\r\n", "\n").rstrip() if text else ""))
    context.out.heading(tr("The SMTP conversation"), tr("Lines that begin with > were sent by Skychimp:"))
    context.out.text("\n".join(emails[0].conversation))
    commands = [*_activation(), "skychimp init --email YOU@EXAMPLE.ORG"]
    context.out.heading(tr("Start your own"), "\n".join(f"$ {command}" for command in commands))
    end = tr("The temporary store has been deleted.\nUntil you set up a mail server, emails are written to an outbox.")
    context.out.text(end)


def _activation() -> "list[str]":
    """Return the command after which a shell finds `skychimp`, if it was run by its path in a virtual environment."""
    script = Path(sys.argv[0]).with_name("activate")
    if shutil.which("skychimp") is not None or not script.is_file():
        return []
    return [shell.command_line(".", script)]
