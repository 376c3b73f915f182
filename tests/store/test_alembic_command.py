"""Test the command that adds a migration, in a copy of the migrations."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from skychimp.store.migrations import revisions


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    """A copy of the folder of migrations."""
    return Path(shutil.copytree(revisions.MIGRATIONS, tmp_path / "migrations"))


def alembic(migrations: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "alembic", "-c", str(migrations / "alembic.ini"), *arguments]
    return subprocess.run(command, cwd=migrations.parent, capture_output=True, text=True, check=False)


def test_revision_adds_a_migration_after_the_newest(migrations: Path) -> None:
    result = alembic(migrations, "revision", "--rev-id", "9999", "-m", "Add phone numbers")

    assert result.returncode == 0, result.stderr
    (script,) = (migrations / "versions").glob("9999_*.py")
    assert script.name == "9999_add_phone_numbers.py"
    folder = ScriptDirectory(str(migrations))
    assert folder.get_current_head() == "9999"
    added = folder.get_revision("9999")
    assert added.down_revision == revisions.REVISION
    assert added.doc == "Add phone numbers."
    added.module.upgrade()  # does nothing yet


def test_other_commands_say_that_stores_upgrade_themselves(migrations: Path) -> None:
    result = alembic(migrations, "upgrade", "head")

    assert result.returncode != 0
    assert "a store is upgraded when Skychimp opens it" in result.stdout + result.stderr
