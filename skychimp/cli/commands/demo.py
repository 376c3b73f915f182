"""`skychimp demo`: the whole story in a throw-away store, by the same commands that a person would type."""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from email import message_from_bytes, policy
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from skychimp.cli.context import Context, Json, get_context
from skychimp.cli.output import PIPE_CLOSED
from skychimp.errors import SkychimpError

if TYPE_CHECKING:
    from skychimp.transport.demo_server import Received

app = typer.Typer(rich_markup_mode="rich", add_completion=False)

PEOPLE = """\
email,name,tags
ada@example.org,Ada Lovelace,vip
grace@example.org,Grace Hopper,
natalya@example.org,Наталья Бехтерева,
chien-shiung@example.org,吳健雄,vip
nobody@example.org,Moved Away,
"""
BODY = """\
Hello {{ client.name }},

this is **your own** letter: nobody else is in its To line.
{% if "vip" in client.tags %}
Thank you for being with us from the start.
{% endif %}
"""
SUBJECT = "Hello {{ client.name }}"

STEPS = (
    (
        "Set up: a config, a store and the first administrator.",
        "init --email you@example.org --sender 'Skychimp <you@example.org>'",
    ),
    ("Bring in the people you write to.", "clients import people.csv"),
    (
        "Write a message, with a name to be filled in.",
        f"messages create --subject '{SUBJECT}' --body-file hello.md --markdown",
    ),
    ("See it as one of them will.", "messages preview 1 --client grace@example.org"),
    (
        "Make a mailing. Its window is open, so it sends at once.",
        "mailings create --message 1 --start now --every month --all-clients",
    ),
    (
        "Every attempt is logged, with the server's words. One address was refused; nobody else waited.",
        "mailings log 1",
    ),
    ("It will not be tried again, until you say so.", "clients show nobody@example.org"),
    ("When the mailing comes again.", "mailings preview 1 --next 3"),
    ("And once more: nothing is sent twice.", "run"),
)


@app.command()
def demo(ctx: typer.Context, json: Json = False) -> None:
    """See the whole story in a throw-away store.

    Mail goes through a real SMTP conversation, to a receiver in this process and no further.
    """
    from skychimp.transport.demo_server import demo_server

    context = get_context(ctx, json)
    with tempfile.TemporaryDirectory(prefix="skychimp-demo-") as folder, demo_server() as receiver:
        place = Path(folder)
        (place / "people.csv").write_text(PEOPLE, encoding="utf-8")
        (place / "hello.md").write_text(BODY, encoding="utf-8")
        for title, command in STEPS:
            _step(context, title, command, place, _environment(place, receiver.port))
        letters = list(receiver.letters)
    if context.out.json:
        context.out.one({"letters": len(letters), "commands": [f"skychimp {command}" for _, command in STEPS]})
    else:
        _show(context, letters)


def _environment(place: Path, port: int) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SKYCHIMP_")}
    return kept | {
        "SKYCHIMP_CONFIG": str(place / "skychimp.toml"),
        "SKYCHIMP_STORE": str(place / "skychimp.db"),
        "SKYCHIMP_MAIL__TRANSPORT": "smtp",
        "SKYCHIMP_SMTP__HOST": "127.0.0.1",
        "SKYCHIMP_SMTP__PORT": str(port),
        "SKYCHIMP_SMTP__SECURITY": "none",
        "XDG_STATE_HOME": str(place / "state"),
    }


def _step(context: Context, title: str, command: str, place: Path, environment: Mapping[str, str]) -> None:
    if not context.out.json:
        context.out.heading(title, f"$ skychimp {command}")
    quiet = ["-q"] if context.out.json or context.out.quiet else []
    program = [sys.executable, "-m", "skychimp", "--no-input", *quiet, *shlex.split(command)]
    shown = subprocess.DEVNULL if context.out.json else None
    done = subprocess.run(program, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=shown, check=False)  # noqa: S603
    if done.returncode == PIPE_CLOSED:
        raise BrokenPipeError
    if done.returncode:
        raise SkychimpError(f"the demo stopped: skychimp {command} left with {done.returncode}")


def _show(context: Context, letters: "list[Received]") -> None:
    """One letter as it came, what was said on the way, and what to do next."""
    letter = message_from_bytes(letters[0].data, policy=policy.default)
    text = letter.get_body(("plain",))
    context.out.heading("What the server got", f"{len(letters)} letters, one for each client; the first:")
    context.out.text("\n".join(f"{name}: {value}" for name, value in letter.items()))
    context.out.text("\n" + (text.get_content().replace("\r\n", "\n").rstrip() if text else ""))
    context.out.heading("How it came", "what was said; > is Skychimp:")
    context.out.text("\n".join(letters[0].conversation))
    context.out.heading("Your turn", "$ skychimp init --email YOU@EXAMPLE.ORG")
    context.out.text("The demo's store is gone again. Until smtp is set up, mail goes to an outbox beside your store.")
