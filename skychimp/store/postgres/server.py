"""Keep a store in a PostgreSQL database, so that several machines can send together.

Writers take turns as on SQLite, by an advisory lock: whatever a transaction reads under it stays as it is until the
commit. Only the quick transactions of sending runs share the lock, as each writes what belongs to its own leases. The
lock is taken in a statement of its own, because a statement's snapshot is older than the lock it waits for.
"""

import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, Engine, NullPool, Pool, QueuePool, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError

from skychimp.config.locations import hide_password, user_folder
from skychimp.errors import StoreFailed, StoreNotReady, StoreUnwritable
from skychimp.shell import run_hint
from skychimp.store.database import BUSY_TIMEOUT_MS, POSTGRESQL, SHORT_TIMEOUT_MS, Driver, Store, boot_time_s
from skychimp.store.postgres import last_commit
from skychimp.store.postgres.pipeline import Pipeline
from skychimp.store.postgres.url import connect_arguments
from skychimp.store.session import Session, transaction
from skychimp.translation import Phrase, tr

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

_READ_VERSION = "SELECT clock_timestamp(), CAST(pg_current_snapshot() AS text)"
"""A snapshot is another one once any transaction that writes has ended. It names the newest, and those in progress."""

_HAS_LOGGED = """
    SELECT EXISTS (SELECT FROM attempt WHERE delivery_id = ANY(%(ids)s) AND xmin = CAST(CAST(%(xid)s AS xid8) AS xid))
        OR EXISTS (SELECT FROM intent WHERE delivery_id = ANY(%(ids)s) AND xmin = CAST(CAST(%(xid)s AS xid8) AS xid))"""

_IDLE_TIMEOUT_MS = 60_000
_IDLE_TIMEOUT_OF_RUN_MS = 10_000
"""How long a transaction may wait for our process, which may be stopped or cut off while it holds the lock.

That of a run only computes little between its statements, and is done again if it has taken too long.
"""

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
"""Whatever the server's defaults are: in a stricter level, the first statement would fix what all others see."""

_PREPARE = """
    SELECT set_config('lock_timeout', '{lock_timeout}', true),
        set_config('statement_timeout', '0', true),
        set_config('idle_in_transaction_session_timeout', '{idle_timeout}', true),
        set_config('synchronous_commit', CASE current_setting('synchronous_commit')
            WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true),
        CAST(pg_current_xact_id() AS text), {take_lock}"""
"""Each transaction's first statement, which is executed from left to right.

With `synchronous_commit` off, a crash of the server would lose intents that were committed.
"""

_KEEP_ALIVE = """
    SELECT set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false),
        set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '30000', false)"""
"""The server's own limits are hours. Ours for the server are in `url.connect_arguments`."""

_TAKE_LOCK = f"pg_advisory_xact_lock({LOCK})"
_SHARE_LOCK = f"pg_advisory_xact_lock_shared({LOCK})"


class PostgresStore(Store):
    """A store in a PostgreSQL database."""

    dialect = POSTGRESQL

    def __init__(self, url: str, password: str | None = None) -> None:
        """Connect to the database when it is first used. `password` is used if the URL has none."""
        self._url, self._password = url, password
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

    def check_file(self) -> None:
        """Do nothing: the server has the files."""

    def read_clock(self) -> None:
        """Take the database's clock as the time, as the clocks of several machines may differ.

        While the server is away, the time is counted on from the last one.
        """
        with contextlib.suppress(DBAPIError), self.engine.connect() as db:
            self._read_version(db)

    def connect_to_watch(self) -> Connection:
        """Return a connection for `read_version`, which nothing else uses."""
        with self.translate_errors():
            return self.connect_autocommit()

    def read_version(self, db: Connection) -> object:
        """Return which transactions of the server a query sees. It reads the clock, too."""
        with self.translate_errors():
            return self._read_version(db)

    def _read_version(self, db: Connection) -> str:
        before = boot_time_s()
        now, snapshot = db.exec_driver_sql(_READ_VERSION).one()
        self._clock = (before + boot_time_s()) / 2, now.astimezone(UTC)
        return str(snapshot)

    def now(self) -> datetime:
        """Return the time by the database's clock."""
        at, now = self._clock
        return now + timedelta(seconds=boot_time_s() - at)

    @contextlib.contextmanager
    def write_soon(self) -> Iterator[Session]:
        """Open a transaction like `write`, but wait for the lock for SHORT_TIMEOUT_MS only. Raises StoreFailed."""
        engine = self._base.execution_options(lock_timeout=SHORT_TIMEOUT_MS)
        with self.translate_errors(), transaction(engine) as db:
            yield db

    def connect_for_writes(self) -> Connection:
        """Return a connection for `transaction`, whose lock the server takes back when it cannot reach us any more."""
        # Not of the pool, whose other users would have psycopg forget the statements that a pipeline has prepared.
        engine = make_engine(self._url, self._password, poolclass=NullPool)
        db = engine.execution_options(isolation_level="AUTOCOMMIT").connect()
        db.exec_driver_sql(_KEEP_ALIVE)
        return db

    @contextlib.contextmanager
    def transaction(self, db: Connection, logged: list[int], *, shared: bool, pipelined: bool) -> Iterator[Driver]:
        """Open a transaction on a connection of `connect_for_writes`, past SQLAlchemy. It waits for the lock.

        At its end, `logged` has the ids of deliveries that it has added attempts or intents to. With `shared`, it may
        run beside other such ones. With `pipelined`, it sends statements before the results of those before them are
        there, so it must execute them by the driver it gets.
        """
        connection: Any = db.connection.dbapi_connection
        take_lock = _SHARE_LOCK if shared else _TAKE_LOCK
        prepared = db.info.setdefault("prepared", set())
        statements: Any
        try:
            with Pipeline(connection, prepared) if pipelined else contextlib.nullcontext(connection) as statements:
                statements.execute(_BEGIN)
                begun = statements.execute(_prepare(BUSY_TIMEOUT_MS, _IDLE_TIMEOUT_OF_RUN_MS, take_lock))
                yield Driver(POSTGRESQL, statements.execute)
                xid = begun.fetchone()[4]
            self._commit(connection, xid, logged)
            last_commit.write(self.path, xid, logged)
        finally:
            if not connection.closed and connection.info.transaction_status != _IDLE:
                connection.pgconn.exec_(b"ROLLBACK")  # as psycopg's forgets the prepared statements, too
            db.rollback()  # SQLAlchemy has seen nothing of the above, only what the block did by it

    def _commit(self, driver: Any, xid: str, logged: Sequence[int]) -> None:
        """Commit. If the connection breaks meanwhile, find out what became of it: a transaction must not run twice."""
        try:
            driver.execute("COMMIT")
        except Exception as error:
            if not self.reconnect(error) or not self._was_committed(xid, logged):
                raise

    def reconnect(self, error: Exception) -> bool:
        """Return whether an error came from a lost connection, after waiting until there is a new one.

        Raises StoreFailed if the server does not come back within RECONNECT_S seconds, or is another one now.
        """
        if not _is_disconnect(error):
            return False
        self._base.dispose()
        if self._patiently(self._read_database_id) != self._database_id:
            raise StoreFailed(
                tr("the database {name} has failed over to another server", name=self.name), run_hint("run")
            )
        return True

    def _was_committed(self, xid: str, logged: Sequence[int]) -> bool:
        """Return whether a transaction was committed, after its end. Raises StoreFailed if that is not known.

        A server that has crashed may give the id of a transaction that it has lost to another one. So there must be
        something that it has written to the `logged` deliveries.
        """
        deadline = time.monotonic() + RECONNECT_S
        while (status := self._patiently(lambda: self._read_status(xid))) == "in progress":
            if time.monotonic() > deadline:
                raise StoreFailed(
                    tr("cannot use the store {name}: a commit did not end", name=self.name), _HINTS["08006"]
                )
            time.sleep(0.1)
        if status not in ("committed", "aborted"):
            raise StoreFailed(
                tr("cannot use the store {name}: what became of a commit is not known", name=self.name), run_hint("run")
            )
        if status == "committed" and logged:
            return self._patiently(lambda: self._has_logged(xid, logged))
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
        try:
            with self.connect_autocommit() as db:
                return str(db.exec_driver_sql("SELECT pg_xact_status(%s::xid8)", (xid,)).scalar())
        except DBAPIError as error:
            if sqlstate(error) == _IN_THE_FUTURE:
                return "aborted"
            raise

    def _has_logged(self, xid: str, delivery_ids: Sequence[int]) -> bool:
        with self.connect_autocommit() as db:
            return bool(db.exec_driver_sql(_HAS_LOGGED, {"xid": xid, "ids": list(delivery_ids)}).scalar())

    def _read_database_id(self) -> str | None:
        """Return the ids of the server and the database, None if it is a standby."""
        with self.connect_autocommit() as db:
            database_id: str | None = db.exec_driver_sql(_READ_DATABASE_ID).scalar_one()
            return database_id

    def connect_autocommit(self) -> Connection:
        """Return a connection on which each statement is its own transaction."""
        return self._base.execution_options(isolation_level="AUTOCOMMIT").connect()

    def checkpoint(self) -> bool:
        """Do nothing: the server takes care of its log."""
        return True

    def has_remains(self, texts: Collection[str]) -> bool:  # noqa: ARG002
        """Return True: the server overwrites nothing."""
        return True

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
        hint = _HINTS.get(state) or _HINTS_OF_CLASSES.get(state[:2]) or tr("this may be a bug in Skychimp")
        kind = StoreUnwritable if state in _UNWRITABLE else StoreFailed
        return kind(f"cannot use the store {self.name}: {reason}", hint)

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


def make_engine(url: str, password: str | None = None, poolclass: type[Pool] = QueuePool) -> Engine:
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
            poolclass=poolclass,
        )
    except ImportError:
        message = tr("PostgreSQL needs the Python package psycopg, which is not installed")
        raise StoreNotReady(message, tr("run \"pip install 'skychimp[postgres]'\"")) from None

    logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # it warns of what is an error anyway

    @event.listens_for(engine, "begin")
    def _begin(db: Connection) -> None:
        lock_timeout = db.get_execution_options().get("lock_timeout")
        if lock_timeout is not None:
            db.exec_driver_sql(_prepare(lock_timeout, _IDLE_TIMEOUT_MS, _TAKE_LOCK))

    return engine


def _prepare(lock_timeout: int, idle_timeout: int, take_lock: str) -> str:
    return _PREPARE.format(lock_timeout=lock_timeout, idle_timeout=idle_timeout, take_lock=take_lock)


def sqlstate(error: BaseException) -> str:
    """Return the SQLSTATE of an error (PostgreSQL's documentation, appendix A), "" if it has none."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None) or ""


def _is_disconnect(error: BaseException) -> bool:
    """Return whether the server, or the way to it, is away for now."""
    import psycopg

    cause = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(cause, "sqlstate", None)
    if state is None:
        return isinstance(cause, psycopg.OperationalError)
    return state[:2] == "08" or state in _AWAY


def _reason(error: BaseException) -> Phrase:
    """Return what an error says, in one line."""
    message = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
    line = message.strip().partition("\n")[0].removeprefix("connection failed: ").replace("FATAL:  ", "")[:300]
    return line if line.isprintable() else ascii(line)


_IDLE = 0  # psycopg.pq.TransactionStatus.IDLE
_LOCKED = ("55P03", "40P01", "40001")  # lock not available, deadlock, serialization failure
_UNWRITABLE = ("53100", "53200", "58030")  # disk full, out of memory, input or output error
_AWAY = ("57P01", "57P02", "57P03", "57P05", "25P03", "53300", "26000")
"""Shut down, crashed, starting, idle for too long (also in a transaction), too many connections.

And a prepared statement that is missing: a connection pool has given us another connection.
"""
_IN_THE_FUTURE = "22023"
"""What a server says of the id of a transaction that it has lost in a crash, until it gives the id to another one."""
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
