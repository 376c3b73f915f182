"""Send a campaign with listmonk 6, a newsletter manager in Go that keeps its data in PostgreSQL.

It has a PostgreSQL server of its own, with its files in memory. The settings are the fastest that were found: two
workers for each connection (one worker uses only one connection), batches of 10,000, no tracking and no unsubscribe
header, and a campaign template with nothing but the content. A worker sleeps for a second after 10,000 emails, the
message rate, but does not get that far. listmonk keeps no record per email.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from programs import measure
from psycopg.types.json import Jsonb
from sink import Sink
from templates import SENDER, SUBJECT, EmailTemplate, recipients

sys.path.append(str(Path(__file__).parents[1]))
from support.postgres import USER, running_server

_DATABASE = "listmonk"
_START_UP_S = 3.0
_TIMEOUT_S = 600.0
_POLL_S = 0.01

_ADD_SUBSCRIBERS = """
WITH list AS (
    INSERT INTO lists (uuid, name, type) VALUES (gen_random_uuid(), 'bench', 'private') RETURNING id
), subscriber AS (
    INSERT INTO subscribers (uuid, email, name) SELECT gen_random_uuid(), * FROM unnest(%s::text[], %s::text[])
    RETURNING id
)
INSERT INTO subscriber_lists (subscriber_id, list_id) SELECT subscriber.id, list.id FROM subscriber, list
"""
_ADD_CAMPAIGN = """
WITH template AS (
    INSERT INTO templates (name, subject, body) VALUES ('bench', '', '{{ template "content" . }}') RETURNING id
), campaign AS (
    INSERT INTO campaigns (uuid, name, from_email, subject, content_type, body, altbody, messenger, template_id, status)
    SELECT gen_random_uuid(), 'bench', %s, %s, %s, %s, %s, 'email', id, 'running' FROM template RETURNING id
)
INSERT INTO campaign_lists (campaign_id, list_id)
SELECT campaign.id, lists.id FROM campaign, lists WHERE lists.name = 'bench'
"""
_GET_SECONDS = """
SELECT extract(epoch FROM updated_at - started_at)::float FROM campaigns WHERE name = 'bench' AND status = 'finished'
"""


class Campaign(NamedTuple):
    """The cost of a campaign, without the start-up of listmonk and PostgreSQL."""

    seconds: float
    """From its start to its end, as listmonk records them."""
    sending_seconds: float
    """From the first email at the server to the last, looking every 10 ms."""
    cpu_seconds: float
    """CPU time of listmonk and of all processes of its PostgreSQL server."""


def send(program: Path, server: Sink, emails: int, template: EmailTemplate, connections: int) -> Campaign:
    """Send the emails to a server on this machine. `program` is the executable of listmonk."""
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder)) as postgres:
        postgres.create_database(_DATABASE)
        command, environment = [str(program.resolve()), "--config="], _environment(postgres.port)
        measure([*command, "--install", "--yes"], environment, Path(folder))
        log = Path(folder, "listmonk.log")
        with (
            psycopg.connect(host="127.0.0.1", port=postgres.port, user=USER, dbname=_DATABASE) as connection,
            log.open("w") as output,
        ):
            connection.autocommit = True
            _set_up(connection, server.port, connections)
            _add_campaign(connection, emails, template)
            with subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=folder) as process:
                try:
                    time.sleep(_START_UP_S)  # it looks for campaigns for the first time after 5 s
                    cpu_seconds = _cpu_seconds(process.pid) + _cpu_seconds(postgres.pid)
                    _wait(process, log, lambda: server.email_count)
                    started = time.perf_counter()
                    _wait(process, log, lambda: server.email_count >= emails)
                    sending_seconds = time.perf_counter() - started
                    (seconds,) = _wait(process, log, lambda: connection.execute(_GET_SECONDS).fetchone())
                    cpu_seconds = _cpu_seconds(process.pid) + _cpu_seconds(postgres.pid) - cpu_seconds
                finally:
                    process.terminate()
    return Campaign(seconds, sending_seconds, cpu_seconds)


def _environment(postgres_port: int) -> dict[str, str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "app__address": f"127.0.0.1:{port}",
        "db__host": "127.0.0.1",
        "db__port": str(postgres_port),
        "db__user": USER,
        "db__database": _DATABASE,
        "db__ssl_mode": "disable",
        "db__max_open": "25",
        "db__max_idle": "25",
    }
    return {f"LISTMONK_{name}": value for name, value in settings.items()}


def _set_up(connection: psycopg.Connection[Any], port: int, connections: int) -> None:
    smtp = {
        "enabled": True,
        "host": "127.0.0.1",
        "port": port,
        "auth_protocol": "none",
        "tls_type": "none",
        "max_conns": connections,
        "max_msg_retries": 2,
        "idle_timeout": "15s",
        "wait_timeout": "5s",
    }
    settings: dict[str, object] = {
        "app.batch_size": 10_000,
        "app.check_updates": False,
        "app.concurrency": 2 * connections,
        "app.message_rate": 10_000,
        "privacy.disable_tracking": True,
        "privacy.unsubscribe_header": False,
        "smtp": [smtp],
    }
    for key, value in settings.items():
        connection.execute("UPDATE settings SET value = %s WHERE key = %s", (Jsonb(value), key))


def _add_campaign(connection: psycopg.Connection[Any], emails: int, template: EmailTemplate) -> None:
    """Add the recipients and a campaign that starts when listmonk looks for campaigns."""
    subject = SUBJECT.format(name="{{ .Subscriber.Name }}")
    own = template.with_placeholders("{{ .Subscriber.Name }}", "{{ .Subscriber.Email }}")
    content = ("plain", own.text, None) if own.html is None else ("html", own.html, own.text)
    addresses, names = zip(*recipients(emails), strict=True)
    connection.execute(_ADD_SUBSCRIBERS, (list(addresses), list(names)))
    connection.execute(_ADD_CAMPAIGN, (SENDER, subject, *content))
    connection.execute("ANALYZE")


def _wait(process: subprocess.Popen[bytes], log: Path, condition: Callable[[], Any]) -> Any:
    """Wait until a condition is true, and return its value. Exits with the last lines of the log on a failure."""
    end = time.monotonic() + _TIMEOUT_S
    while not (value := condition()):
        if process.poll() is not None or time.monotonic() > end:
            last_lines = "\n".join(log.read_text().splitlines()[-5:])
            sys.exit(f"error: listmonk does not send\n{last_lines}")
        time.sleep(_POLL_S)
    return value


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and of its children, including those that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + sum(_cpu_seconds(int(child)) for child in children)
