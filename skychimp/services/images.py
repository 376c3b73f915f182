"""Images of posts: taken apart and made anew, then kept in a folder beside the store.

A file's name is the hash of its content, so that the same image is kept once. A file without a post does no harm and
is swept away; a post without its file must never be. So a file is there before its row is committed, and goes after
the last row is gone; both happen while nobody else can write to the store.
"""

import re
from pathlib import Path

from skychimp.errors import StoreFailed
from skychimp.store.engine import Store

_NAME = re.compile(r"[0-9a-f]{64}\.(png|jpg|webp)")


def path(store: Store, name: str) -> Path:
    """Where an image lies. Raises StoreFailed for a name that is not one of ours, as in a store made by somebody."""
    if not _NAME.fullmatch(name):
        raise StoreFailed("the store names an image that can't be one", "give the post its image anew: --image FILE")
    return folder(store) / name


def folder(store: Store) -> Path:
    return store.path.with_name(f"{store.path.name}.images")
