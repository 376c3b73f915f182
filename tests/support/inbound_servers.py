"""Run servers that take the mail which comes back: Postfix with a pipe or a Maildir for it, and Dovecot."""

import os
import re
import textwrap
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from support.debian_servers import DebianServer, account_id, free_port
from support.mail_servers import Postfix
from support.returned import INBOX
from support.service_account import ACCOUNT, ServiceAccount

if TYPE_CHECKING:
    import trustme

PASSWORD = "secret"
STARTTLS_HOST = "127.0.0.2"
"""Where Dovecot takes IMAP without TLS at first. It is no name of this machine for Skychimp, which so uses STARTTLS."""


class InboundPostfix(Postfix):
    """Postfix, which delivers at once: mail for example.org to `inbox`, for the address `INBOX` to Skychimp.

    That is by the pipe of the topic "inbound", or by the Maildir `returned` of the account. Mail for example.net goes
    to the port `next_port`.
    """

    delivers = True
    cases: ClassVar = {
        "pipe": "transport_maps = {transports}\n{main}",
        "Maildir": "transport_maps = {transports}\n{main}",
    }

    def __init__(self, case: str, account: ServiceAccount, next_port: int) -> None:
        transports = {"example.net": f"smtp:[127.0.0.1]:{next_port}"} | ({INBOX: "skychimp:"} if case == "pipe" else {})
        super().__init__(case, transports=inline(transports), main=_shown_lines("recipient_delimiter"))
        self.inbox = self.folder / "inbox"
        number = account_id(ACCOUNT)
        maps = {"@example.org": self.inbox, "@example.net": "nowhere", INBOX: account.home / "returned"}
        self.mailboxes = f"""
            virtual_mailbox_base = /
            virtual_mailbox_maps = {inline({name: f"{path}/" for name, path in maps.items()})}
            virtual_uid_maps = static:{number}
            virtual_gid_maps = static:{number}
        """
        self._account = account
        self.homes = {ACCOUNT: account.home}

    def prepare(self) -> None:
        super().prepare()
        for path in (self.inbox, *self.inbox.iterdir()):
            self._account.own(path)
        master = self.folder / "etc/postfix/master.cf"
        master.write_text(f"{master.read_text()}smtp unix - - n - - smtp\n{self._pipe()}\n")

    def _pipe(self) -> str:
        """Return the lines for master.cf, for the account and the command of this test."""
        lines = _shown_lines("skychimp unix").replace("user=skychimp", f"user={ACCOUNT}")
        return lines.replace("/usr/bin/skychimp", str(self._account.program))


def _shown_lines(start: str) -> str:
    """Return the lines for Postfix that begin so in the topic "inbound"."""
    topic = files("skychimp").joinpath("cli/topics/inbound.md").read_text()
    (lines,) = re.findall(rf"^ {{6}}{start}.*\n {{6}}.*\n", topic, re.MULTILINE)
    return textwrap.dedent(lines)


def inline(table: Mapping[str, str]) -> str:
    """Return a table as it is written in main.cf."""
    return f"inline:{{ {' '.join(f'{{{name} = {value}}}' for name, value in table.items())} }}"


class Dovecot(DebianServer):
    """Dovecot with one mailbox for everybody, the Maildir `mail`: `port` takes IMAP with TLS, `lmtp_port` LMTP.

    A responder answers what comes by LMTP. It sends its answers to `responses_port`.
    """

    name, program, account = "Dovecot", "dovecot", "dovecot"

    def __init__(self, authority: "trustme.CA", mail: Path | None = None, responses_port: int = 0) -> None:
        super().__init__()
        self.lmtp_port = free_port()
        self._authority = authority
        self._mail = mail
        self._responses_port = responses_port

    def prepare(self) -> None:
        (self.folder / "var/lib/dovecot").mkdir()
        (self.folder / "etc/dovecot").mkdir()
        (self.folder / "run/dovecot").mkdir()
        home = self.folder / "home"
        home.mkdir()
        os.chown(home, account_id(ACCOUNT), account_id(ACCOUNT))
        (home / ".dovecot.sieve").write_text(_SIEVE)
        certificate = self.folder / "certificate.pem"
        certificate.touch(0o600)
        self._authority.issue_cert("127.0.0.1", STARTTLS_HOST).private_key_and_cert_chain_pem.write_to_path(certificate)
        text = _DOVECOT_CONF.format(
            folder=self.folder,
            home=home,
            mail=self._mail or home / "Maildir",
            port=self.port,
            starttls_host=STARTTLS_HOST,
            lmtp_port=self.lmtp_port,
            responses_port=self._responses_port,
            password=PASSWORD,
            id=account_id(ACCOUNT),
        )
        (self.folder / "etc/dovecot/dovecot.conf").write_text(text)

    def command(self) -> list[str]:
        return ["dovecot", "-F"]


_SIEVE = """\
require "vacation";
vacation :subject "Away" "I am away until Monday.";
"""
_DOVECOT_CONF = """
protocols = imap lmtp
log_path = /dev/stderr
mail_location = maildir:{mail}
recipient_delimiter = +
first_valid_uid = 1
ssl = required
ssl_cert = <{folder}/certificate.pem
ssl_key = <{folder}/certificate.pem
passdb {{
    driver = static
    args = password={password}
}}
userdb {{
    driver = static
    args = uid={id} gid={id} home={home} allow_all_users=yes
}}
service imap-login {{
    inet_listener imap {{
        address = {starttls_host}
        port = {port}
    }}
    inet_listener imaps {{
        address = 127.0.0.1
        port = {port}
        ssl = yes
    }}
}}
service lmtp {{
    inet_listener lmtp {{
        address = 127.0.0.1
        port = {lmtp_port}
    }}
}}
protocol lmtp {{
    mail_plugins = sieve
}}
submission_host = 127.0.0.1:{responses_port}
"""
