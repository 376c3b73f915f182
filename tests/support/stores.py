"""Name a store, whatever database it is in, to a command that is to use it."""

from skychimp.store.database import SQLITE, Store


def store_url(store: Store) -> str:
    """Return the URL of a store."""
    return store.engine.url.render_as_string(hide_password=False)


def store_environ(store: Store) -> dict[str, str]:
    """Return the variables with which a command uses a store, and the same folder beside it as this process."""
    environ = {"SKYCHIMP_STORE": store_url(store)}
    return environ if store.dialect == SQLITE else environ | {"XDG_DATA_HOME": str(store.path.parent.parent)}
