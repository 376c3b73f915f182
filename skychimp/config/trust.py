"""Remember which config files the user trusts: by their path and content, with the .env beside them.

A config file in the current folder may be anybody's, and decides who gets the emails and passwords. So it is used only
if the user has trusted it, and not after it was changed. There is a file for each trusted config in the user's state
folder.
"""

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from skychimp import files
from skychimp.config import checked_files
from skychimp.config.locations import user_folder
from skychimp.errors import ConfigError
from skychimp.shell import run_hint, run_line_hint
from skychimp.translation import tr

ENV_NAME = ".env"


class ConfigFiles(NamedTuple):
    """A config file and the .env beside it, as they were read. The content of a file that does not exist is None."""

    path: Path
    config: bytes | None
    env: bytes | None

    @property
    def env_path(self) -> Path:
        return self.path.with_name(ENV_NAME)


class TrustedConfig(NamedTuple):
    """What is remembered of a trusted config: its path, and the SHA-256 hashes of it and of the .env beside it."""

    path: Path
    config_hash: str
    env_hash: str | None
    trusted_at: datetime


def trust(read: ConfigFiles) -> TrustedConfig:
    """Remember a config as it was read. Raises ConfigError if the state folder cannot be written."""
    trusted = TrustedConfig(_place_of(read.path), _hash(read.config) or "", _hash(read.env), datetime.now(UTC))
    file = _record_of(trusted.path)
    try:
        files.make_folder(file.parent)
        files.check_place(file)
        files.write_file(file, _to_json(trusted))
    except OSError as error:
        message = tr("cannot save the trust in {parent}: {strerror}", parent=file.parent, strerror=error.strerror)
        raise ConfigError(message, tr("set XDG_STATE_HOME to a folder that you can write to")) from None
    return trusted


def find(path: Path) -> TrustedConfig | None:
    """Return what is remembered of a config, None if it is not trusted. Raises ConfigError for a damaged record."""
    return _read_record(_record_of(_place_of(path)))


def list_trusted() -> list[TrustedConfig]:
    """Return all trusted configs, sorted by path. Raises ConfigError."""
    try:
        records = list(_folder().iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigError(tr("cannot read {folder}: {strerror}", folder=_folder(), strerror=error.strerror)) from None
    found = (_read_record(record) for record in records if not record.name.startswith("."))
    return sorted(trusted for trusted in found if trusted is not None)


def forget(path: Path) -> bool:
    """Stop trusting a config. Returns whether it was trusted. Raises ConfigError."""
    try:
        _record_of(_place_of(path)).unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ConfigError(tr("cannot change {folder}: {strerror}", folder=_folder(), strerror=error.strerror)) from None
    return True


def require_unchanged(read: ConfigFiles) -> None:
    """Raise ConfigError if a config is not trusted, or if it or the .env beside it has changed since."""
    trusted = find(read.path)
    changed = read.path if trusted is None else changed_file(trusted, read)
    if changed is not None:
        since = "it" if changed == read.path else read.path
        raise ConfigError(
            tr("{changed} has changed since {since} was trusted", changed=changed, since=since),
            tr("check it, then {trust_hint}", trust_hint=_trust_hint(read)),
        )


def changed_file(trusted: TrustedConfig, read: ConfigFiles) -> Path | None:
    """Return which file is not as it was when the config was trusted, None if none was changed."""
    if _hash(read.config) != trusted.config_hash:
        return read.path
    return None if _hash(read.env) == trusted.env_hash else read.env_path


def _trust_hint(read: ConfigFiles) -> str:
    is_here = read.path.parent == Path.cwd()
    return run_hint("trust") if is_here else run_hint("trust", read.path)


def _place_of(path: Path) -> Path:
    """Return the path of a config without links in its folder. The config itself may be a link."""
    return Path(os.path.realpath(path.parent)) / path.name


def _folder() -> Path:
    return user_folder("state") / "trusted"


def _record_of(place: Path) -> Path:
    return _folder() / hashlib.sha256(os.fsencode(place)).hexdigest()[:32]


def _hash(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def _to_json(trusted: TrustedConfig) -> bytes:
    values = {"path": str(trusted.path), "config": trusted.config_hash, "env": trusted.env_hash}
    return json.dumps(values | {"trusted_at": trusted.trusted_at.isoformat()}).encode()


def _read_record(record: Path) -> TrustedConfig | None:
    remedy = tr("{hint} and trust the config again", hint=run_line_hint("rm", record))
    try:
        values = json.loads(checked_files.read_bytes(record, remedy))
        trusted_at = datetime.fromisoformat(values["trusted_at"])
        return TrustedConfig(Path(values["path"]), values["config"], values["env"], trusted_at)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError):
        raise ConfigError(tr("{record} is damaged", record=record), remedy) from None
