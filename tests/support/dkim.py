"""Keys for DKIM, what is published of them, and Perl's Mail::DKIM and OpenDKIM, which verify signatures."""

import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from skychimp.delivery.composing import dkim
from skychimp.delivery.composing.dkim import DkimKey
from support.debian_servers import PACKAGES, find_program
from support.nameserver import NameServer

RSA = DkimKey("example.org", "s1", dkim.make_key(rsa=True))
ED25519 = DkimKey("example.org", "e1", dkim.make_key(rsa=False))

_VERIFY = r"""
use Mail::DKIM::Verifier;
use Net::DNS::Resolver;
my $resolver = Net::DNS::Resolver->new(nameservers => ["127.0.0.1"], port => shift, udppacketsize => 1280);
Mail::DKIM::DNS::resolver($resolver);
my $verifier = Mail::DKIM::Verifier->new();
binmode STDIN;
while (<STDIN>) { $verifier->PRINT($_); }
$verifier->CLOSE;
print $_->result_detail, "\n" for $verifier->signatures;
"""


@cache
def _records() -> dict[str, str]:
    return {record.name: record.text for record in (dkim.key_record(key) for key in (RSA, ED25519))}


def published(name: bytes, timeout: int = 5) -> bytes | None:
    """Return the TXT record of a name, as dkimpy asks for it."""
    text = _records().get(name.decode().rstrip("."))
    return None if text is None else text.encode()


def zone() -> dict[str, dict[str, list[str]]]:
    """Return the records of the keys for a name server."""
    records = (dkim.key_record(key) for key in (RSA, ED25519))
    return {record.name: {"TXT": [" ".join(f'"{part}"' for part in record.strings)]} for record in records}


def has_perl_verifier() -> bool:
    """Return whether Mail::DKIM is installed."""
    command = ["perl", "-MMail::DKIM::Verifier", "-e", "1"]
    return (
        shutil.which("perl") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


def perl_verifies(email: bytes) -> list[str]:
    """Return the result for each signature of an email, such as "pass", as Mail::DKIM sees it."""
    with NameServer(zone()) as server:
        port = server.address.rpartition(":")[2]
        done = subprocess.run(["perl", "-e", _VERIFY, port], input=email, capture_output=True, check=True, timeout=60)
    return done.stdout.decode().splitlines()


def has_opendkim() -> bool:
    """Return whether OpenDKIM is installed or unpacked."""
    return find_program("opendkim") is not None


def opendkim_verifies(email: bytes, records: Mapping[str, str]) -> bool:
    """Return whether OpenDKIM finds that the signature of an email is valid. `records` are the TXT records in DNS."""
    with TemporaryDirectory() as folder:
        names = Path(folder, "records")
        names.write_text("".join(f"{name} {text}\n" for name, text in records.items()))
        out = _run_opendkim(email, Path(folder), f"TestDNSData file:{names}\n")
    return "dkim=pass" in out


def opendkim_signs(email: bytes, key: DkimKey, *settings: str) -> str:
    """Return the signature that OpenDKIM makes for an email with these lines in its configuration."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "key.pem")
        file.write_bytes(dkim.to_pem(key.private))
        used = f"Mode s\nDomain {key.domain}\nSelector {key.selector}\nKeyFile {file}\nRequireSafeKeys no\n"
        return _run_opendkim(email, Path(folder), "\n".join([used, *settings, ""]))


def _run_opendkim(email: bytes, folder: Path, settings: str) -> str:
    """Return the headers that OpenDKIM adds to an email."""
    program = find_program("opendkim")
    assert program
    (folder / "email").write_bytes(email)
    (folder / "opendkim.conf").write_text(settings)
    libraries = ":".join(str(path) for path in Path(PACKAGES or "/").glob("usr/lib/*-linux-gnu"))
    done = subprocess.run(
        [program, "-x", folder / "opendkim.conf", "-t", folder / "email", "-v", "-v"],
        env={"LD_LIBRARY_PATH": libraries},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout
