"""The cache: what it holds, and how it stays right.

what                        key                 why it is kept             until (an hour at most, whatever happens)
--------------------------  ------------------  -------------------------  ---------------------------------------------
the home page's counts: of  home-OWNER:VERSION  every client is read       a client, mailing or audience is another; a
all, and of each user                                                      mailing ends
ids and times of posts,     posts:VERSION       all are read, to draw      a post comes, goes, or is published at a
published or to be                              three                      different time
the HTML of a post's        html-ID:HASH        Markdown is slow           its content is another
revision

Never the view counter, nor a title or slug: they are read where they are shown.

A key is a place, and the version of what lies there. The version is read from the store in the very transaction that
shows or computes (home.py); triggers renew it in every transaction that changes what was counted (models.py). So nobody
has to invalidate anything, whoever has written sees it at once, and what was computed from an older view of the store
is never taken for newer. Versions are random: a restored store, or another one, has others.

The cache is a folder of this account's, a file a place, so that it does not grow; or a Redis server. Values are JSON.
Without it, all is only slower. Who finds nothing makes it, and waits for no other process, which may have been stopped.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skychimp import __version__
from skychimp.config.settings import Settings
from skychimp.errors import ConfigError

if TYPE_CHECKING:
    from dogpile.cache.region import CacheRegion

Cached = Callable[[str, Callable[[], Any]], Any]
"""Gives what is kept under a key, else keeps and gives what is made: JSON either way."""

LIFE = 3600  # s
PATIENCE = 1  # s that a server may take


def refresh(_key: str, make: Callable[[], Any]) -> Any:
    """Recall without a cache."""
    return make()


class Cache:
    """Gives what is kept under a key. Raises ConfigError where the settings name a server that can't be spoken to.

    Where the cache is broken in any other way, `warn` is told, and all is made anew.
    """

    def __init__(self, settings: Settings, warn: Callable[[str], None]) -> None:
        self._region: CacheRegion | None = _region(settings)
        self._warn = warn

    def cached(self, key: str, make: Callable[[], Any]) -> Any:
        """What is kept under a key, else what is made, and kept from now on: JSON either way."""
        if self._region is None:
            return make()
        from dogpile.cache.api import NO_VALUE

        with contextlib.suppress(Exception):  # what can't be read is made anew, and kept in its place
            kept = self._region.get(key)
            if kept is not NO_VALUE:
                return kept
        made = make()
        try:
            self._region.set(key, made)
        except Exception as error:  # whatever a disk, a server or its library may raise
            self._region = None
            self._warn(f"the cache can't be used, so this took longer: {error}")
        return made


def _region(settings: Settings) -> "CacheRegion":
    from dogpile.cache import make_region, register_backend

    register_backend("skychimp.folder", "skychimp.services.reporting.cache_folder", "Folder")  # type: ignore[no-untyped-call]
    region = make_region(
        key_mangler=lambda key: f"skychimp-{key} {__version__}",
        serializer=lambda value: json.dumps(value).encode(),
        deserializer=json.loads,
    )
    url = settings.cache.url
    if url is None:
        return region.configure("skychimp.folder", LIFE, {"folder": _folder(settings.store_url)})
    timeouts = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE}
    try:
        return region.configure("dogpile.cache.redis", LIFE, {"url": url, "redis_expiration_time": LIFE} | timeouts)
    except ImportError:
        raise ConfigError(
            "cache.url names a Redis server, and Python's redis is not installed", "pip install 'skychimp[redis]'"
        ) from None
    except ValueError as error:
        raise ConfigError(f"cache.url can't be used: {error}", "write redis://HOST:PORT/NUMBER") from None


def _folder(store_url: str) -> Path:
    from platformdirs import user_cache_path

    name = hashlib.sha256(store_url.encode(errors="surrogateescape")).hexdigest()[:16]
    return user_cache_path("skychimp", appauthor=False) / name
