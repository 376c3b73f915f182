"""Keep a store in a PostgreSQL database, so that several machines can send together.

Writers take turns as on SQLite, by an advisory lock: whatever a transaction reads under it stays as it is until the
commit. Only the quick transactions of sending runs share the lock, as each writes what belongs to its own leases. The
lock is taken in a statement of its own, because a statement's snapshot is older than the lock it waits for.
"""

import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlmodel import Session

from skychimp.config.locations import hide_password, user_folder
from skychimp.errors import StoreFailed, StoreNotReady
from skychimp.shell import command_line, run_hint
from skychimp.store.database import BUSY_TIMEOUT_MS, POSTGRESQL, SHORT_TIMEOUT_MS, Store, boot_time_s
from skychimp.store.postgres import last_commit
from skychimp.store.postgres.url import connect_arguments

T = TypeVar("T")

OLDEST_VERSION = 140000
"""The oldest version of PostgreSQL that is supported, as `server_version_num` has it."""

LOCK = "1397447000, 1"
"""The advisory lock's key: this class is used for nothing else in the database."""

DATABASE_ID = """concat_ws(
    ':',
    (SELECT system_identifier FROM pg_control_system()),
    (SELECT oid FROM pg_database WHERE datname = current_database()),
    CAST(to_regclass('store_info') AS oid),
    substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))"""
"""The SQL for the ids of a primary server, the database and a table, and the timeline, which a fail-over changes."""

WAITS_FOR_STANDBY = """current_setting('synchronous_standby_names') != ''
    AND current_setting('synchronous_commit') != 'local'"""
"""The SQL for whether each commit waits for a standby server."""

MISSING_TABLE = "42P01"
"""The SQLSTATE of a table that does not exist."""

RECONNECT_S = 60
"""How long to wait for a server that is away. Then other machines take this one for dead."""

_IDLE_TIMEOUT_MS = 60_000
"""How long a transaction may wait for our process, which may have been stopped while it holds the lock."""

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
"""Whatever the server's defaults are: in a stricter level, the first statement would fix what all others see."""

_PREPARE = f"""
    SELECT set_config('lock_timeout', '{{lock_timeout}}', true),
        set_config('statement_timeout', '0', true),
        set_config('idle_in_transaction_session_timeout', '{_IDLE_TIMEOUT_MS}', true),
        set_config('synchronous_commit', CASE current_setting('synchronous_commit')
            WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true),
        CAST(pg_current_xact_id() AS text), {{take_lock}}"""
"""Each transaction's first statement, which is executed from left to right.

With `synchronous_commit` off, a crash of the server would lose intents that were committed.
"""

_TAKE_LOCK = f"pg_advisory_xact_lock({LOCK})"
_SHARE_LOCK = f"pg_advisory_xact_lock_shared({LOCK})"


class PostgresStore(Store):
    """A store in a PostgreSQL database."""

    dialect = POSTGRESQL

    def __init__(self, url: str, password: str | None = None) -> None:
        """Connect to the database when it is first used. `password` is used if the URL has none."""
        engine = make_engine(url, password)
        readers = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        name = hide_password(url).replace("+psycopg", "")
        super().__init__(name, Path(), readers, engine.execution_options(lock_timeout=BUSY_TIMEOUT_MS))
        self._base = engine
        self._clock = (0.0, datetime.now(UTC))
        self._database_id: str | None = None

    def prepare(self) -> None:
        """Read the clock, and where this machine keeps its own files for this store. The tables must exist."""
        self.path = self._local_path()
        with self.translate_errors():
            self._database_id = self._read_database_id()
        self.read_clock()

    def read_clock(self) -> None:
        """Take the database's clock as the time, as the clocks of several machines may differ.

        While the server is away, the time is counted on from the last one.
        """
        before = boot_time_s()
        try:
            with self.engine.connect() as db:
                now = db.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
        except DBAPIError:
            return
        self._clock = (before + boot_time_s()) / 2, now.astimezone(UTC)

    def now(self) -> datetime:
        """Return the time by the database's clock."""
        at, now = self._clock
        return now + timedelta(seconds=boot_time_s() - at)

    @contextlib.contextmanager
    def write_soon(self) -> Iterator[Session]:
        """Open a transaction like `write`, but wait for the lock for SHORT_TIMEOUT_MS only. Raises StoreFailed."""
        engine = self._base.execution_options(lock_timeout=SHORT_TIMEOUT_MS)
        with self.translate_errors(), Session(engine, expire_on_commit=False) as db, db.begin():
            yield db

    def connect_for_writes(self) -> Connection:
        """Return a connection for `transaction`."""
        return self.connect_autocommit()

    @contextlib.contextmanager
    def transaction(self, db: Connection, *, shared: bool, pipelined: bool) -> Iterator[None]:
        """Open a transaction on a connection of `connect_for_writes`, past SQLAlchemy. It waits for the lock.

        With `shared`, it may run beside other such ones. With `pipelined`, it sends statements before the results of
        those before them are there, so it must use no number of changed rows.
        """
        driver: Any = db.connection.dbapi_connection
        take_lock = _SHARE_LOCK if shared else _TAKE_LOCK
        try:
            with driver.pipeline() if pipelined else contextlib.nullcontext():
                driver.execute(_BEGIN)
                begun = driver.execute(_PREPARE.format(lock_timeout=BUSY_TIMEOUT_MS, take_lock=take_lock))
                yield
                xid = begun.fetchone()[4]
            self._commit(driver, xid)
            last_commit.write(self.path, xid)
        finally:
            if not driver.closed and driver.info.transaction_status != _IDLE:
                driver.execute("ROLLBACK")
            db.rollback()  # SQLAlchemy has seen nothing of the above, only what the block did by it

    def _commit(self, driver: Any, xid: str) -> None:
        """Commit. If the connection breaks meanwhile, find out what became of it: a transaction must not run twice."""
        try:
            driver.execute("COMMIT")
        except Exception as error:
            if not self.reconnect(error) or not self._was_committed(xid):
                raise

    def reconnect(self, error: Exception) -> bool:
        """Return whether an error came from a lost connection, after waiting until there is a new one.

        Raises StoreFailed if the server does not come back within RECONNECT_S seconds, or is another one now.
        """
        if not _is_disconnect(error):
            return False
        self._base.dispose()
        if self._patiently(self._read_database_id) != self._database_id:
            raise StoreFailed(f"the database {self.name} has failed over to another server", run_hint("run"))
        return True

    def _was_committed(self, xid: str) -> bool:
        """Return whether a transaction was committed, after its end. Raises StoreFailed if that is not known."""
        deadline = time.monotonic() + RECONNECT_S
        while (status := self._patiently(lambda: self._read_status(xid))) == "in progress":
            if time.monotonic() > deadline:
                raise StoreFailed(f"cannot use the store {self.name}: a commit did not end", _HINTS["08006"])
            time.sleep(0.1)
        if status not in ("committed", "aborted"):
            raise StoreFailed(
                f"cannot use the store {self.name}: what became of a commit is not known", run_hint("run")
            )
        return status == "committed"

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask the server, again while it is away. Raises StoreFailed after RECONNECT_S seconds."""
        from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

        retrying = Retrying(
            stop=stop_after_delay(RECONNECT_S),
            wait=wait_random_exponential(multiplier=0.1, max=2),
            retry=retry_if_exception(_is_disconnect),
            reraise=True,
        )
        with self.translate_errors():
            return retrying(ask)

    def _read_status(self, xid: str) -> str:
        with self.connect_autocommit() as db:
            return str(db.exec_driver_sql("SELECT pg_xact_status(%s::xid8)", (xid,)).scalar())

    def _read_database_id(self) -> str | None:
        """Return the ids of the server and the database, None if it is a standby."""
        with self.connect_autocommit() as db:
            database_id: str | None = db.exec_driver_sql(_READ_DATABASE_ID).scalar_one()
            return database_id

    def connect_autocommit(self) -> Connection:
        """Return a connection on which each statement is its own transaction."""
        return self._base.execution_options(isolation_level="AUTOCOMMIT").connect()

    def checkpoint(self) -> None:
        """Do nothing: the server takes care of its log."""

    def vacuum(self) -> None:
        """Rewrite the tables that have recipients, as deleted rows leave bytes in them. Writers wait meanwhile.

        What the server's log, its standbys and backups have of them stays there. Raises StoreFailed.
        """
        with self.translate_errors(), self.connect_autocommit() as db:
            db.detach()  # so that no other user of the pool gets the connection with this setting
            db.exec_driver_sql(f"SET lock_timeout = {SHORT_TIMEOUT_MS}")  # readers would wait behind it meanwhile
            for table in ("client", "client_tag", "delivery", "attempt"):
                db.exec_driver_sql(f"VACUUM (FULL) {table}")

    @property
    def vacuum_hint(self) -> str:
        """The command that does what `vacuum` does."""
        return command_line("psql", "--command", "VACUUM FULL", self.engine.url.database or "")

    @property
    def description(self) -> str:
        """The store, and the version of the server."""
        with self.translate_errors(), self.engine.connect() as db:
            version = db.exec_driver_sql("SHOW server_version").scalar_one()
        return f"{self.name}, PostgreSQL {str(version).split()[0]}"

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turn the driver's errors into StoreFailed. A violated constraint (IntegrityError) is left to the caller."""
        import psycopg

        try:
            yield
        except (IntegrityError, psycopg.errors.IntegrityError):
            raise
        except DBAPIError as error:
            raise self._failed(error.orig or error) from error
        except psycopg.Error as error:
            raise self._failed(error) from error

    def is_locked(self, error: Exception) -> bool:
        """Return whether another process holds a lock, so that waiting helps."""
        return sqlstate(error) in _LOCKED

    def read_server(self) -> "ServerState":
        """Return what is known about the server. Raises StoreFailed."""
        with self.translate_errors(), self.engine.connect() as db:
            return ServerState(*db.exec_driver_sql(_READ_SERVER).one())

    def _failed(self, error: BaseException) -> StoreFailed:
        state = sqlstate(error)
        reason = _reason(error)
        if not state and _is_disconnect(error):  # an error of connecting has only words, in the server's language
            state = next((state for words, state in _STATES_OF_WORDS.items() if words in reason), "08006")
        hint = _HINTS.get(state) or _HINTS_OF_CLASSES.get(state[:2]) or "this may be a bug in Skychimp"
        return StoreFailed(f"cannot use the store {self.name}: {reason}", hint)

    def _local_path(self) -> Path:
        """Return a path that is the same for all processes on this machine, however they name the database."""
        identity = (
            "SELECT encode(secret, 'hex') || oid || datname"
            " FROM store_info, pg_database WHERE datname = current_database()"
        )
        with self.translate_errors(), self.engine.connect() as db:
            text = db.exec_driver_sql(identity).scalar_one()
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return user_folder("data") / f"postgresql-{digest}"


_READ_DATABASE_ID = f"SELECT CASE WHEN NOT pg_is_in_recovery() THEN {DATABASE_ID} END"


class ServerState(NamedTuple):
    """A server: whether it is a standby, and how its commits reach one.

    `has_unicode` says whether its locale knows more than ASCII. `encryption` is the protocol, None without any.
    `survives_power_loss` says whether it flushes what is committed to the disk.
    """

    is_standby: bool
    has_unicode: bool
    encryption: str | None
    standbys: int
    waits_for_standby: bool
    survives_power_loss: bool


_READ_SERVER = f"""
    SELECT pg_is_in_recovery(), lower('Ä') = 'ä', (SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()),
        (SELECT count(*) FROM pg_stat_replication), {WAITS_FOR_STANDBY},
        current_setting('fsync') = 'on' AND current_setting('full_page_writes') = 'on'"""  # noqa: S608


def make_engine(url: str, password: str | None = None) -> Engine:
    """Return a SQLAlchemy engine for a URL. `password` is used if the URL has none. Raises StoreNotReady."""
    parsed = make_url(url)
    if password is not None and parsed.password is None:
        parsed = parsed.set(password=password)
    try:
        engine = create_engine(
            parsed,
            connect_args=connect_arguments(url),
            isolation_level="READ COMMITTED",
            hide_parameters=True,
            pool_pre_ping=True,
        )
    except ImportError:
        message = "PostgreSQL needs the Python package psycopg, which is not installed"
        raise StoreNotReady(message, "run \"pip install 'skychimp[postgres]'\"") from None

    logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # it warns of what is an error anyway

    @event.listens_for(engine, "begin")
    def _begin(db: Connection) -> None:
        lock_timeout = db.get_execution_options().get("lock_timeout")
        if lock_timeout is not None:
            db.exec_driver_sql(_PREPARE.format(lock_timeout=lock_timeout, take_lock=_TAKE_LOCK))

    return engine


def sqlstate(error: BaseException) -> str:
    """Return the SQLSTATE of an error (PostgreSQL's documentation, appendix A), "" if it has none."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None) or ""


def _is_disconnect(error: BaseException) -> bool:
    """Return whether the server, or the way to it, is away for now."""
    import psycopg

    cause = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(cause, psycopg.OperationalError):
        return False
    return cause.sqlstate is None or cause.sqlstate[:2] == "08" or cause.sqlstate in _AWAY


def _reason(error: BaseException) -> str:
    """Return what an error says, in one line."""
    message = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
    line = message.strip().partition("\n")[0].removeprefix("connection failed: ").replace("FATAL:  ", "")[:300]
    return line if line.isprintable() else ascii(line)


_IDLE = 0  # psycopg.pq.TransactionStatus.IDLE
_LOCKED = ("55P03", "40P01", "40001")  # lock not available, deadlock, serialization failure
_AWAY = ("57P01", "57P02", "57P03", "57P05", "25P03", "53300")
"""Shut down, crashed, starting, idle for too long (also in a transaction), too many connections."""
_WRONG_PASSWORD = "28P01"  # noqa: S105
_MISSING_DATABASE, _TOO_MANY = "3D000", "53300"
_STATES_OF_WORDS = {
    "password": _WRONG_PASSWORD,
    "does not exist": _MISSING_DATABASE,
    "too many": _TOO_MANY,
}
_TRY_LATER = "another process has locked the store; try again later"
_HINTS = dict.fromkeys(_LOCKED, _TRY_LATER) | {
    "08006": "check that PostgreSQL runs, and that store.url is right",
    _WRONG_PASSWORD: "set store.password_file, or use ~/.pgpass",
    _MISSING_DATABASE: "create it with createdb: see skychimp help postgres",
    "25006": "use the URL of the primary server: this one is a standby",
    "42501": "connect as the database's owner",
    "53100": "free some disk space on the server, then run the command again",
    _TOO_MANY: "raise max_connections of the server, or use PgBouncer",
}
_HINTS_OF_CLASSES = {
    "08": "check that PostgreSQL runs, and that store.url is right",
    "28": "check the user and the server's pg_hba.conf",
    "57": "check that PostgreSQL runs, and that store.url is right",
}
