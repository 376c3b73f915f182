"""Cache what is slow to compute: the home page's counts, the list of published posts, and the HTML of posts.

value                       key                 why it is cached           valid until (never longer than an hour)
--------------------------  ------------------  -------------------------  ---------------------------------------------
the home page's counts, of  home-OWNER:VERSION  reads all clients          a client, mailing or audience changes, or a
all users and of each user                                                 mailing ends
ids and publication times   posts:VERSION       reads all posts, to pick   a post is created or deleted, or its
of posts                                        three at random            publication time changes
the HTML of a post's        html-ID:HASH        rendering Markdown is      its content changes
revision                                        slow

View counts, titles and slugs are never cached: they are read where they are shown.

A key is a name and, after the colon, the version of the value. The version is read from the store in the same
transaction that shows or computes the value (home.py); triggers change it in every transaction that changes what was
counted (models.py). So nothing has to be invalidated, a writer sees its own changes at once, and a value that was
computed from an older snapshot is never taken for a newer one. Versions are random: a restored store, or another one,
has others.

The cache is a private folder with one file per name, so that it does not grow, or a Redis server. Values are JSON.
Without a cache everything works, only slower. Nothing waits for another process, because that may have been stopped.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skychimp import __version__
from skychimp.config.settings import Settings
from skychimp.errors import ConfigError
from skychimp.translation import tr

if TYPE_CHECKING:
    from dogpile.cache.region import CacheRegion

Cached = Callable[[str, Callable[[], Any]], Any]
"""A function that returns the value cached under a key, or else computes, caches and returns it. Values are JSON."""

LIFETIME_S = 3600
SERVER_TIMEOUT_S = 1


def refresh(_key: str, compute: Callable[[], Any]) -> Any:
    """Compute a value without a cache: a `Cached` that always computes."""
    return compute()


def open_cache(settings: Settings, warn: Callable[[str], None]) -> Cached:
    """Return the `Cached` of these settings.

    A value that can't be read is computed again. If a value can't be written, `warn` is called once and the cache is no
    longer used. Raises ConfigError if the settings name a server that can't be used.
    """
    region = _region(settings, warn)
    return lambda key, compute: region.get_or_create(key, compute)


def _region(settings: Settings, warn: Callable[[str], None]) -> "CacheRegion":
    from dogpile.cache import make_region, register_backend

    from skychimp.services.reporting.cache_folder import SafeBackend, deserialize

    register_backend("skychimp.folder", "skychimp.services.reporting.cache_folder", "FolderBackend")  # type: ignore[no-untyped-call]
    region = make_region(
        key_mangler=lambda key: f"skychimp-{key} {__version__}",
        serializer=lambda value: json.dumps(value).encode(),
        deserializer=deserialize,
    )
    url = settings.cache.url
    safe = [SafeBackend(warn)]
    if url is None:
        return region.configure("skychimp.folder", LIFETIME_S, {"folder": _folder(settings.store_url)}, wrap=safe)
    options = {
        "url": url,
        "redis_expiration_time": LIFETIME_S,
        "socket_timeout": SERVER_TIMEOUT_S,
        "socket_connect_timeout": SERVER_TIMEOUT_S,
    }
    try:
        return region.configure("dogpile.cache.redis", LIFETIME_S, options, wrap=safe)
    except ImportError:
        raise ConfigError(
            tr("cache.url needs the Python package redis, which is not installed"),
            tr("run \"pip install 'skychimp[redis]'\""),
        ) from None
    except ValueError as error:
        raise ConfigError(tr("invalid cache.url: {error}", error=error), tr("use redis://HOST:PORT/NUMBER")) from None


def _folder(store_url: str) -> Path:
    from platformdirs import user_cache_path

    name = hashlib.sha256(store_url.encode(errors="surrogateescape")).hexdigest()[:16]
    return user_cache_path("skychimp", appauthor=False) / name
