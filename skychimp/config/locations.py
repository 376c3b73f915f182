"""Locate the user's folders and the store."""

import os
import re
from functools import partial
from pathlib import Path

FILE_NAME = "skychimp.toml"
"""The name of the config file."""


def database_url(store: str | None) -> str:
    """Return the SQLAlchemy URL of a store that is given by a path or a URL; None means the user's data folder.

    A path is resolved: all users of a store must find the same lock files, outbox and session, also through a link.
    """
    url = store or str(user_folder("data") / "skychimp.db")
    if "://" in url:
        return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)
    return "sqlite:///" + os.path.realpath(url).replace("%", "%25").replace("?", "%3F")


def hide_password(url: str) -> str:
    """Return a URL with its password replaced by `***`."""
    return re.sub(r"([?&](?:ssl)?password=)[^&]*", r"\1***", re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url))


def hide_path(url: str) -> str:
    """Return a URL with all that comes after its host replaced by `***`, as that is the secret."""
    scheme, separator, rest = url.partition("://")
    host = re.split(r"[/?#]", rest)[0].rpartition("@")[2]
    return f"{scheme}://{host}/***" if separator else "***"


def user_folder(kind: str) -> Path:
    """Return the user's folder for Skychimp's files of a kind: config, data, state or cache. It may not exist."""
    import platformdirs

    find = partial(getattr(platformdirs, f"user_{kind}_path"), "skychimp", appauthor=False)
    return Path(find())
