"""Write the command line of this installation, for systemd and cron."""

import shutil
import sys
from pathlib import Path

from skychimp.config import config_file, sources
from skychimp.config.locations import hide_password
from skychimp.config.settings import Settings
from skychimp.errors import InvalidValue
from skychimp.store.schema import is_on_server
from skychimp.text import has_control_character, shortened
from skychimp.translation import tr


def command_words(settings: Settings) -> list[str]:
    """Return the command line of this installation with its config and store, for any working folder."""
    program = shutil.which(sys.argv[0])
    words = [str(Path(program).absolute())] if program else [sys.executable, "-m", "skychimp"]
    config = settings.config_file
    return [*words, *(["--config", str(config)] if config else []), *_store_words(settings)]


def _store_words(settings: Settings) -> list[str]:
    """Return the option that names the store. A server that the config names is left to it, as is a password."""
    url, config = settings.store_url, settings.config_file
    if not is_on_server(url):
        return ["--store", url]
    in_config = {} if config is None else sources.file_values(config_file.read_files(config))
    if in_config.get("store.url") == settings.store.url:
        return []
    if hide_password(url) != url:
        raise InvalidValue(
            tr("the store's URL has a password, which others would see on the command line"),
            tr("set store.url in the config"),
        )
    return ["--store", url]


def on_one_line(text: str) -> str:
    """Return a text that is put on a line of a crontab or a unit. Raises InvalidValue if it would end the line."""
    if has_control_character(text):
        hint = tr("use paths without line breaks and control characters")
        raise InvalidValue(tr("cannot write {value} on one line", value=shortened(text, 200)), hint)
    return text
