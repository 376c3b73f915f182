"""Every command of the README is run, in the order in which it stands there, by somebody with an empty folder."""

import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

from support.command import PROGRAM, Home
from support.inbox import code_in, letters

from skychimp.config import sources

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
INSTALL = [line for block in BLOCKS[:2] for line in block.splitlines()]
COMMANDS = [line for block in BLOCKS[2:] for line in block.splitlines()]
SETTINGS = re.findall(r"^```toml\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_its_first_two_commands_install_into_a_virtual_environment() -> None:
    # They are run word for word in the project's own CI: here they would only install what runs this test.
    assert [line.rpartition("&& ")[2] for line in INSTALL] == [".venv/bin/skychimp demo", ".venv/bin/pytest"]
    assert all(line.startswith("python3 -m venv .venv && .venv/bin/pip install ") for line in INSTALL)


def test_every_command_works(tmp_path: Path) -> None:
    outbox = tmp_path / ".local/share/skychimp/outbox"
    home = Home(tmp_path, SKYCHIMP_PASSWORD="correct horse battery")
    people = "email,name,tags\ngrace@example.org,Grace Hopper,vip\nnatalya@example.org,Наталья Бехтерева,\n"
    (tmp_path / "people.csv").write_text(people, encoding="utf-8")
    (tmp_path / "hello.md").write_text("Hello **{{ client.name }}**!\n", encoding="utf-8")
    assert len(COMMANDS) > 15
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        assert program == "skychimp"
        if arguments == ["daemon"]:
            assert _daemon_drains(home), command
            continue
        if arguments[0] == "verify":
            arguments[-1] = code_in(letters(outbox)[-1])
        done = home.run(*arguments)
        assert done.status == 0, (command, done.err)
    assert len(letters(outbox)) == 5  # three clients, one test, and one code


def test_its_settings_are_settings(tmp_path: Path) -> None:
    assert SETTINGS
    for number, text in enumerate(SETTINGS):
        path = tmp_path / f"{number}.toml"
        path.write_text(text, encoding="utf-8")
        sources.load(config_file=path, environ={})


def _daemon_drains(home: Home) -> bool:
    daemon = subprocess.Popen([PROGRAM, "daemon"], cwd=home.folder, env=home.environ, stderr=subprocess.PIPE, text=True)
    assert daemon.stderr
    with daemon:
        line = daemon.stderr.readline()
        time.sleep(0.5)  # for its first look; a signal before that would do, too
        daemon.send_signal(signal.SIGTERM)
        rest = daemon.stderr.read()
    return "event=started" in line and "event=stopped" in rest and daemon.returncode == 0
