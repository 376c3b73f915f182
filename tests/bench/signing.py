"""Compare sending with DKIM signatures to sending without, against smtp-sink on loopback.

    python tests/bench/signing.py
    python tests/bench/signing.py --emails 5000 --rounds 1

A round sends the same emails without a signature, with RSA (2,048 bits), with Ed25519, and with both. The body is the
same for all clients, or personal. The subject and the headers are always personal. The table shows the medians of the
rounds: emails per second while sending, CPU time per email of the whole run, and both compared with no signature.
"""

import argparse
import os
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

import stores
from programs import measure
from sink import sink
from templates import SIZES, EmailTemplate

DOMAIN = "example.com"
KINDS = {"none": (), "rsa": ("rsa",), "ed25519": ("ed25519",), "both": ("rsa", "ed25519")}
BODIES = {
    f"{size}, {kind}": template if kind == "personal" else template.with_placeholders("reader", "this address")
    for size, template in SIZES.items()
    for kind in ("same", "personal")
}


def main() -> None:
    options = _options()
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    cpu_us: dict[tuple[str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="skychimp-bench-", dir=options.folder) as name:
        folder = Path(name)
        settings = {kind: _settings(folder, kind) for kind in KINDS}
        for _ in range(options.rounds):
            for body, template in BODIES.items():
                for kind in KINDS:
                    run = _send(folder, body, template, settings[kind], options)
                    rates[body, kind].append(run.emails / run.sending_seconds)
                    cpu_us[body, kind].append(run.whole.cpu_seconds / run.emails * 1e6)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.emails:,} emails, rounds: {options.rounds}")
    print(f"{'body':16}{'signature':11}{'emails/s':>10}{'of none':>9}{'CPU us/email':>14}{'more':>7}")
    for body, kind in rates:
        rate, cpu = median(rates[body, kind]), median(cpu_us[body, kind])
        share, more = rate / median(rates[body, "none"]), cpu - median(cpu_us[body, "none"])
        print(f"{body:16}{kind:11}{rate:10,.0f}{share:9.2f}{cpu:14,.0f}{more:7,.0f}")


def _settings(folder: Path, kind: str) -> dict[str, str]:
    """Make the keys, and return the settings that sign with them."""
    if not KINDS[kind]:
        return {}
    files = [folder / f"{kind}-{each}.pem" for each in KINDS[kind]]
    for each, file in zip(KINDS[kind], files, strict=True):
        words = ("--type", each, "--selector", each, "--domain", DOMAIN, "--out", str(file))
        measure([stores.SKYCHIMP, "dkim", "keygen", *words])
    listed = {"SELECTOR": KINDS[kind], "KEY_FILE": files}
    values = {name: "[" + ", ".join(f'"{item}"' for item in items) + "]" for name, items in listed.items()}
    return {f"SKYCHIMP_DKIM__{name}": value for name, value in {"DOMAIN": DOMAIN, **values}.items()}


def _send(
    folder: Path, body: str, template: EmailTemplate, settings: dict[str, str], options: argparse.Namespace
) -> stores.Run:
    fresh, used = folder / body, folder / "used"
    if not fresh.exists():
        stores.make_store(fresh, options.emails, template)
    with sink() as server:
        run = stores.run(stores.copy_store(fresh, used), server.port, options.connections, **settings)
    shutil.rmtree(used)
    return run


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emails", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--folder", help="folder for the stores; use a real disk, not a tmpfs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
