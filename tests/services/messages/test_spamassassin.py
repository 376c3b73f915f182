"""Test what is read from SpamAssassin, and that its failures change nothing."""

import shutil
from pathlib import Path

import pytest

from skychimp.services.messages import spamassassin
from skychimp.services.messages.spamassassin import Verdict, check_spam, read_verdict

EMAIL = b"Subject: Hi\r\n\r\nDear you\r\n"
SPAM = "Yes, score=7.2 required=5.0 tests=HTML_IMAGE_ONLY_08,MISSING_DATE,\\n\\tURI_HEX autolearn=no version=4.0.1"
HAM = "No, score=-0.1 required=5.0 tests=none autolearn=ham"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder that programs are looked for in, besides the system's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    real = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: real(name, path=str(folder)))
    return folder


def install(folder: Path, name: str, script: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def filter_script(status: str) -> str:
    return f"printf 'X-Spam-Status: {status}\\n'; cat"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (b"Yes, score=7.2 required=5.0 tests=A_1,B,\r\n\tC autolearn=no", Verdict(7.2, 5.0, ["A_1", "B", "C"])),
        (b"No, score=-0.1 required=5.0 tests=none autolearn=ham", Verdict(-0.1, 5.0, [])),
        (b"No, score=1 required=5", Verdict(1, 5, [])),
        (b"No, score=. required=5", None),
        (b"No, hits=1 required=5", None),
        (b"", None),
    ],
)
def test_verdict_is_read(status: bytes, expected: Verdict | None) -> None:
    assert read_verdict(b"X-Spam-Status: " + status + b"\r\n" + EMAIL) == expected


def test_body_is_no_verdict() -> None:
    assert read_verdict(EMAIL + b"X-Spam-Status: No, score=1 required=5\r\n") is None


@pytest.mark.parametrize(
    ("status", "level", "found"),
    [
        (SPAM, "warning",
         "SpamAssassin gives 7.2 points, and takes 5 for spam: HTML_IMAGE_ONLY_08, MISSING_DATE, URI_HEX"),
        (HAM, "ok", "SpamAssassin gives -0.1 points, and takes 5 for spam"),
    ],
)  # fmt: skip
def test_verdict_is_a_finding(programs: Path, status: str, level: str, found: str) -> None:
    install(programs, "spamassassin", filter_script(status))
    finding = check_spam(EMAIL, is_online=False)
    assert finding is not None
    assert (finding.level, finding.found) == (level, found)


def test_it_need_not_be_installed(programs: Path) -> None:
    assert check_spam(EMAIL, is_online=False) is None


@pytest.mark.parametrize("script", ["exit 74", "cat", "exec sleep 60", "yes x | head -c 5000000", "printf '\\377\\0'"])
def test_program_that_fails_gives_a_warning(programs: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spamassassin, "TIMEOUT_S", 0.5)
    install(programs, "spamassassin", script)
    finding = check_spam(EMAIL * 100_000, is_online=False)
    assert finding is not None
    assert (finding.level, finding.found) == ("warning", "SpamAssassin gave no score")


def test_daemon_is_asked_first(programs: Path) -> None:
    install(programs, "spamc", "exit 69")
    install(programs, "spamassassin", filter_script(HAM))
    finding = check_spam(EMAIL, is_online=False)
    assert finding is not None
    assert finding.level == "ok"
    install(programs, "spamc", filter_script(SPAM))
    finding = check_spam(EMAIL, is_online=False)
    assert finding is not None
    assert finding.level == "warning"


@pytest.mark.parametrize(("is_online", "option"), [(False, "--local"), (True, "")])
def test_it_asks_name_servers_only_online(programs: Path, tmp_path: Path, is_online: bool, option: str) -> None:
    install(programs, "spamassassin", f'echo "$*:$SKYCHIMP_TOKEN" > {tmp_path}/asked; {filter_script(HAM)}')
    check_spam(EMAIL, is_online=is_online)
    assert (tmp_path / "asked").read_text() == f"{option}:\n"


def test_it_gets_no_passwords(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYCHIMP_TOKEN", "secret")
    install(programs, "spamassassin", f"env > {tmp_path}/environ; {filter_script(HAM)}")
    check_spam(EMAIL, is_online=False)
    assert "SKYCHIMP" not in (tmp_path / "environ").read_text()
