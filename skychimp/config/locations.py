"""The user's folders, and the store's URL."""

import os
import re
from functools import partial
from pathlib import Path


def database_url(store: str | None) -> str:
    url = store or str(user_folder("data") / "skychimp.db")
    if "://" in url:
        return url
    return "sqlite:///" + os.path.realpath(url).replace("%", "%25").replace("?", "%3F")


def hide_password(url: str) -> str:
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)


def user_folder(kind: str) -> Path:
    import platformdirs

    find = partial(getattr(platformdirs, f"user_{kind}_path"), "skychimp", appauthor=False)
    return Path(find())
