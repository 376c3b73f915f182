"""`skychimp demo`: the whole story in a throw-away store, by the same commands that a person would type."""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from email import message_from_bytes, policy
from pathlib import Path

import typer

from skychimp.cli.context import Context, Json, enter
from skychimp.errors import SkychimpError

app = typer.Typer(rich_markup_mode="rich")

PEOPLE = """\
email,name,tags
ada@example.org,Ada Lovelace,vip
grace@example.org,Grace Hopper,
natalya@example.org,Наталья Бехтерева,
chien-shiung@example.org,吳健雄,vip
"""
BODY = """\
Hello {{ client.name }},

this is **your own** letter: nobody else is in its To line.
{% if "vip" in client.tags %}
Thank you for being with us from the start.
{% endif %}
"""

STEPS = (
    ("Set up: a config, a store and the first administrator.", "init --email you@example.org --sender 'Skychimp <you@example.org>'"),
    ("Bring in the people you write to.", "clients import people.csv"),
    ("Write a message, with a name to be filled in.", "messages create --subject 'Hello {{ client.name }}' --body-file hello.md --markdown"),
    ("See it as one of them will.", "messages preview 1 --client grace@example.org"),
    ("Make a mailing. Its window is open, so it sends at once.", "mailings create --message 1 --start now --every month --all-clients"),
    ("Every attempt is logged, with the server's words.", "mailings log 1"),
    ("When it comes again.", "mailings preview 1 --next 3"),
    ("And once more: nothing is sent twice.", "run"),
)  # fmt: skip


@app.command()
def demo(ctx: typer.Context, json: Json = False) -> None:
    """See the whole story in a throw-away store; mail goes through a real SMTP conversation, but no further."""
    from skychimp.transport.receiver import receiving

    here = enter(ctx, json)
    with tempfile.TemporaryDirectory(prefix="skychimp-demo-") as folder, receiving() as receiver:
        place = Path(folder)
        (place / "people.csv").write_text(PEOPLE, encoding="utf-8")
        (place / "hello.md").write_text(BODY, encoding="utf-8")
        environment = _environment(place, receiver.port)
        for title, command in STEPS:
            _step(here, title, command, place, environment)
        letters = list(receiver.letters)
    if json:
        here.out.one({"letters": len(letters), "commands": [command for _, command in STEPS]})
        return
    _show_letter(here, letters)


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


def _step(here: Context, title: str, command: str, place: Path, environment: Mapping[str, str]) -> None:
    if not here.json:
        here.out.heading(title, f"$ skychimp {command}")
    program = [sys.executable, "-m", "skychimp", "--no-input", *shlex.split(command)]
    shown = subprocess.DEVNULL if here.json else None
    done = subprocess.run(program, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=shown, check=False)  # noqa: S603
    if done.returncode:
        raise SkychimpError(f"the demo stopped: skychimp {command} left with {done.returncode}")


def _show_letter(here: Context, letters: list[bytes]) -> None:
    letter = message_from_bytes(letters[-1], policy=policy.default)
    text = letter.get_body(("plain",))
    here.out.heading("What the server got", f"{len(letters)} letters, one for each client; the last one:")
    here.out.text("\n".join(f"{name}: {value}" for name, value in letter.items()))
    here.out.text("\n" + (text.get_content().replace("\r\n", "\n") if text else ""))
    here.out.heading("Your turn", "skychimp init --email YOU@EXAMPLE.ORG")
    here.out.text("The demo's store is gone again. Until smtp is set up, mail goes to an outbox beside your store.")
