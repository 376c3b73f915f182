"""Measure how many one-click requests a second `skychimp serve` answers on one core, beside a run that sends.

    python tests/bench/unsubscribing.py                     100,000 clients, 10,000 requests, 10,000 forged ones
    python tests/bench/unsubscribing.py --clients 20000

Each request is from an address of its own, through X-Forwarded-For, and unsubscribes a client. The CPU time is that of
the server for one request: 1000 ms divided by it is what one idle core answers in a second. `sent` is how many emails
the run sent meanwhile. The last lines are about reading forged tokens alone, without a server.
"""

import argparse
import asyncio
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles

import stores
from sink import Sink, sink
from templates import SIZES

from skychimp.delivery.composing import tokens
from skychimp.delivery.composing.tokens import Purpose, TokenKey
from skychimp.store import token_keys
from skychimp.store.schema import open_store

PROGRAM = Path(sys.executable).with_name("skychimp")
CONNECTIONS = 32
FORGED = 1_000_000
OPENED = 20_000
"""How many deliveries the first run creates."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
ROW = "{:<26}{:>10}{:>12}{:>10}{:>10}{:>10}{:>12}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skychimp-bench-") as name, sink() as receiver:
        folder = Path(name) / "store"
        stores.make_store(folder, options.clients, SIZES["1k"])
        environ = _environ(folder, receiver)
        subprocess.run([PROGRAM, "-q", "run", "--limit", "1"], env=environ, check=False)  # creates the deliveries
        real = _tokens(folder, range(OPENED - options.requests + 1, OPENED + 1))
        forged = [secrets.token_hex(17) for _ in range(options.requests)]
        print(ROW.format("requests", "answers", "requests/s", "p50 ms", "p99 ms", "sent", "CPU ms each"), flush=True)
        with _server(folder, environ) as server, _run(environ):
            _show("one-click, beside a run", server, receiver, real, 200)
            _show("forged, beside a run", server, receiver, forged, 404)
        with _server(folder, environ) as server:
            _show("one-click, alone", server, receiver, real, 200)
            _show("forged, alone", server, receiver, forged, 404)
    _read_forged()


def _environ(folder: Path, receiver: Sink) -> dict[str, str]:
    sending = {"MAIL__TRANSPORT": "smtp", "SMTP__HOST": "127.0.0.1", "SMTP__SECURITY": "none"}
    sending |= {"SMTP__PORT": str(receiver.port), "MAIL__SENDER": "bench@example.com"}
    sending |= {"CONFIG": str(folder / "skychimp.toml"), "STORE": str(folder / "skychimp.db")}
    return dict(os.environ) | {f"SKYCHIMP_{name}": value for name, value in sending.items()}


def _tokens(folder: Path, delivery_ids: Sequence[int]) -> list[str]:
    store = open_store(f"sqlite:///{folder / 'skychimp.db'}")
    with store.read() as db:
        keys = token_keys.read(db.connection(), store.now())
    store.close()
    return [tokens.make(TokenKey(1, keys[1]), Purpose.UNSUBSCRIBE, delivery_id) for delivery_id in delivery_ids]


@contextmanager
def _server(folder: Path, environ: dict[str, str]) -> "Iterator[subprocess.Popen[bytes]]":
    """Run the server on one core."""
    path = folder / "web.sock"
    command: list[str | Path] = ["taskset", "-c", "0", PROGRAM, "serve", "--listen", f"unix:{path}"]
    with subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL) as process:
        while not path.exists():
            time.sleep(0.05)
        process.args = str(path)
        yield process
        process.terminate()


@contextmanager
def _run(environ: dict[str, str]) -> Iterator[None]:
    with subprocess.Popen([PROGRAM, "-q", "run"], env=environ) as process:
        time.sleep(2)
        yield
        process.kill()


def _show(name: str, server: "subprocess.Popen[bytes]", receiver: Sink, given: Sequence[str], expected: int) -> None:
    sent, cpu_s, began = receiver.email_count, _cpu_seconds(server.pid), time.perf_counter()
    answers = asyncio.run(_ask_all(str(server.args), given))
    seconds = time.perf_counter() - began
    cpu_ms = (_cpu_seconds(server.pid) - cpu_s) / len(given) * 1000
    sent = receiver.email_count - sent
    right = sum(status == expected for status, _ in answers)
    times = quantiles([each * 1000 for _, each in answers], n=100)
    rate = f"{len(given) / seconds:,.0f}"
    print(ROW.format(name, f"{right:,}", rate, f"{times[49]:.0f}", f"{times[98]:.0f}", f"{sent:,}", f"{cpu_ms:.2f}"))


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


async def _ask_all(path: str, given: Sequence[str]) -> list[tuple[int, float]]:
    """Send the requests over some connections. Return the status of each, and how many seconds it took."""
    waiting, answers = iter(enumerate(given)), []

    async def ask_next() -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        for number, token in waiting:
            began = time.perf_counter()
            address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
            body = "List-Unsubscribe=One-Click"
            writer.write(
                f"POST /u/{token} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {address}\r\n"
                f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r\n")[0]))
            answers.append((int(head[9:12]), time.perf_counter() - began))
        writer.close()

    await asyncio.gather(*(ask_next() for _ in range(CONNECTIONS)))
    return answers


def _read_forged() -> None:
    """Read random tokens, and tokens in which one character was changed."""
    key = TokenKey(1, secrets.token_bytes(32))
    genuine = tokens.make(key, Purpose.UNSUBSCRIBE, 1_234_567)
    letters = "0123456789abcdefghijklmnopqrstuv"
    given = [secrets.token_hex(17) for _ in range(FORGED // 2)]
    for number in range(FORGED - len(given)):
        at, letter = number % len(genuine), letters[number // len(genuine) % len(letters)]
        changed = genuine[:at] + letter + genuine[at + 1 :]
        given.append(changed if changed != genuine else secrets.token_hex(17))
    times = []
    accepted = 0
    for token in given:
        began = time.perf_counter()
        accepted += tokens.read({1: key.key}, Purpose.UNSUBSCRIBE, token) is not None
        times.append((time.perf_counter() - began) * 1e6)
    cuts = quantiles(times, n=1000)
    print(f"{FORGED:,} forged tokens: {accepted} accepted, p50 {cuts[499]:.1f} µs, p99.9 {cuts[998]:.1f} µs")


if __name__ == "__main__":
    main()
