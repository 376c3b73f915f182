"""People leave, complain and bounce through Debian's mail and web servers, and the next mailing leaves them out.

Postfix takes the emails and makes the bounce. It passes what comes back on by a pipe, or puts it into a Maildir, which
the daemon reads itself or by IMAP from Dovecot. nginx takes the one-click request.
"""

import re
import smtplib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from support.dkim import has_opendkim, opendkim_verifies
from support.inbound_servers import PASSWORD, Dovecot, InboundPostfix
from support.returned import INBOX, complaint
from support.servers import LimitingRelay, Request
from support.service_account import ACCOUNT, ServiceAccount
from support.web_proxies import HOST, Nginx
from support.web_server import ONE_CLICK

if TYPE_CHECKING:
    import trustme

pytestmark = [pytest.mark.mta, pytest.mark.sqlite, pytest.mark.timeout(300)]

LOYAL, CLICKS, WRITES, COMPLAINS = (f"{name}@example.org" for name in ("loyal", "clicks", "writes", "complains"))
GONE = "gone@example.net"
CLIENTS = (LOYAL, CLICKS, WRITES, COMPLAINS, GONE)
UNKNOWN_USER = "550 5.1.1 <gone@example.net>: Recipient address rejected: User unknown"
PATIENCE_S = 60.0
CONFIG = """
[mail]
transport = "smtp"
sender = "Ada <ada@skychimp.test>"
timezone = "UTC"
[smtp]
host = "127.0.0.1"
port = {port}
security = "none"
[web]
url = "https://{host}"
listen = "unix:{web}/web.sock"
[dkim]
selector = "s1"
domain = "skychimp.test"
key_file = "{home}/dkim.pem"
[inbound]
address = "{inbox}"
"""


class Installation:
    """Skychimp on an account of its own, with mail servers, a web server, and all clients in an audience."""

    def __init__(self, account: ServiceAccount, postfix: InboundPostfix, proxy: Nginx) -> None:
        self.account, self.postfix, self.proxy = account, postfix, proxy
        self.dkim_record: dict[str, str] = {}
        self.refused_at: datetime | None = None

    def call(self, *arguments: str, stdin: str = "") -> Any:
        """Run a command and return its JSON."""
        done = self.account.run(*arguments, "--json", stdin=stdin)
        assert done.status == 0, (arguments, done.err)
        return done.json

    def emails(self, address: str) -> list[tuple[Message, bytes]]:
        """Return what has arrived for an address."""
        found = [path.read_bytes() for path in sorted((self.postfix.inbox / "new").iterdir())]
        return [(email, data) for data in found if (email := message_from_bytes(data))["To"] == address]

    def email(self, address: str) -> Message:
        self.wait_for(f"email to {address}", lambda: bool(self.emails(address)))
        return self.emails(address)[0][0]

    def refuse(self, request: Request) -> bytes | None:
        """Refuse all recipients, as the mail server of example.net."""
        if request.command != "RCPT":
            return None
        self.refused_at = datetime.now(UTC)
        return f"{UNKNOWN_USER}\r\n".encode()

    def wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f"{what}: not within {PATIENCE_S} s\n{self.postfix.log()[-3000:]}\n" + (
                self.account.log.read_text() if self.account.log.exists() else ""
            )
            time.sleep(0.05)


@pytest.fixture(params=["pipe", "Maildir", "IMAP"])
def installation(request: pytest.FixtureRequest, authority: "trustme.CA") -> Iterator[Installation]:
    """Start everything, with one way for what comes back."""
    for kind in (InboundPostfix, Nginx, Dovecot):
        if problem := kind.why_not_here():
            pytest.skip(problem)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="skychimp-")))
        folder.chmod(0o755)
        account = ServiceAccount(folder)
        if (tried := account.run("--version")).status:
            pytest.skip(f"other accounts cannot run this copy of Skychimp: {tried.err}")
        web = account.create_folder("web", 0o750)
        next_server = LimitingRelay()
        postfix = InboundPostfix("pipe" if request.param == "pipe" else "Maildir", account, next_server.port)
        proxy = Nginx(authority, group=ACCOUNT)
        installation = Installation(account, postfix, proxy)
        next_server.limit = installation.refuse
        config = CONFIG.format(port=postfix.port, host=HOST, web=web, home=account.home, inbox=INBOX)
        account.write_config(config + more_settings(request.param, account, authority, stack))
        set_up(installation)
        stack.enter_context(next_server)
        stack.enter_context(postfix)
        start(stack, installation, "serve", lambda: (web / "web.sock").exists())
        proxy.text = account.run("service", "web").out
        stack.enter_context(proxy)
        if request.param != "pipe":
            start(stack, installation, "daemon", lambda: "event=started" in account.log.read_text())
        yield installation


def more_settings(way: str, account: ServiceAccount, authority: "trustme.CA", stack: ExitStack) -> str:
    """Return the settings of a way for what comes back."""
    if way == "Maildir":
        returned = account.create_folder("home/returned", 0o700)
        for name in ("new", "cur", "tmp"):
            account.create_folder(f"home/returned/{name}", 0o700)
        return f'maildir = "{returned}"\n'
    if way == "IMAP":
        dovecot = stack.enter_context(Dovecot(authority, account.home / "returned"))
        password, authority_file = account.home / "password", account.folder / "authority.pem"
        password.touch(0o600)
        password.write_text(PASSWORD)
        account.own(password)
        authority.cert_pem.write_to_path(authority_file)
        account.environ["SSL_CERT_FILE"] = str(authority_file)
        return f'imap_url = "imaps://bounces@127.0.0.1:{dovecot.port}"\npassword_file = "{password}"\n'
    return ""


def set_up(installation: Installation) -> None:
    """Create the store, the key, the clients and the message."""
    call, home = installation.call, installation.account.home
    call("init", "--email", "ada@skychimp.test")
    made = call("dkim", "keygen", "--selector", "s1", "--out", str(home / "dkim.pem"))
    installation.dkim_record = {made["record"]["name"]: made["record"]["value"]}
    call("clients", "import", "-", stdin="email\n" + "\n".join(CLIENTS))
    call("messages", "create", "--subject", "News", "--body", "Hello.\n\nTo leave: {{ unsubscribe_url }}")


def start(stack: ExitStack, installation: Installation, command: str, is_ready: Callable[[], bool]) -> None:
    process = installation.account.start(command, "--log-format", "logfmt")
    stack.callback(stop, process)
    installation.wait_for(command, is_ready)


def stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait(PATIENCE_S)


def links(email: Message) -> list[str]:
    """Return the URLs of List-Unsubscribe."""
    return re.findall(r"<([^>]+)>", "".join(email["List-Unsubscribe"].split()))


def write_to_unsubscribe(installation: Installation, address: str) -> datetime:
    """Send what a mail program sends for the mailto link of an email, and return when."""
    (mailto,) = (urlsplit(link) for link in links(installation.email(address)) if link.startswith("mailto:"))
    subject = "".join(parse_qs(mailto.query).get("subject", []))
    data = f"From: {address}\nTo: {mailto.path}\nSubject: {subject}\n\n".encode()
    return send(installation, address, mailto.path, data)


def send(installation: Installation, sender: str, recipient: str, data: bytes) -> datetime:
    """Send an email to Postfix, and return when."""
    with smtplib.SMTP("127.0.0.1", installation.postfix.port) as smtp:
        started_at = datetime.now(UTC)
        smtp.sendmail(sender, recipient, data)
        return started_at


def test_who_left_is_left_out_of_the_next_mailing(installation: Installation) -> None:
    call = installation.call
    call("mailings", "create", "--message", "1", "--start", "now", "--every", "once", "--all-clients", "--yes")
    sent_at: dict[str, datetime] = {}

    (https,) = (link for link in links(installation.email(CLICKS)) if link.startswith("https:"))
    sent_at[CLICKS] = datetime.now(UTC)
    assert installation.proxy.ask("POST", urlsplit(https).path, ONE_CLICK).status == 200

    headers = "".join(f"{name}: {value}\n" for name, value in installation.email(COMPLAINS).items())
    sent_at[WRITES] = write_to_unsubscribe(installation, WRITES)
    sent_at[COMPLAINS] = send(installation, "feedback@isp.example", INBOX, complaint(headers, to=INBOX))

    installation.wait_for("effects", lambda: len(call("suppressions", "list")) == len(CLIENTS) - 1)
    assert installation.refused_at
    sent_at[GONE] = installation.refused_at
    left = {each["address"]: each for each in call("suppressions", "list")}
    for address, each in left.items():
        print(f"{address}: {(datetime.fromisoformat(each['at']) - sent_at[address]).total_seconds():.2f} s")

    assert {address: (each["reason"], each["source"]) for address, each in left.items()} == {
        CLICKS: ("unsubscribed", "web"),
        WRITES: ("unsubscribed", "mail"),
        COMPLAINS: ("complaint", "complaint"),
        GONE: ("bounce", "bounce"),
    }
    assert_everything_is_recorded(installation)
    call("mailings", "create", "--message", "1", "--start", "now", "--every", "once", "--all-clients", "--yes")
    installation.wait_for("the next email", lambda: len(installation.emails(LOYAL)) == 2)
    installation.wait_for("its reply", lambda: bool(call("mailings", "log", "2")))  # if the daemon has sent it
    assert [(each["email"], each["status"]) for each in call("mailings", "log", "2")] == [(LOYAL, "sent")]
    left_out = {each["email"] for each in call("mailings", "audience", "2") if each["left_out"]}
    assert left_out == set(CLIENTS) - {LOYAL}


@pytest.mark.parametrize("installation", ["pipe"], indirect=True)
def test_mail_waits_in_the_mail_server_while_the_config_is_invalid(installation: Installation) -> None:
    config = installation.account.home / ".config/skychimp/skychimp.toml"
    valid = config.read_text()
    installation.call(
        "mailings", "create", "--message", "1", "--start", "now", "--every", "once", "--all-clients", "--yes"
    )
    config.write_text("[mail\n")
    write_to_unsubscribe(installation, WRITES)
    installation.wait_for("deferred", lambda: "relay=skychimp" in installation.postfix.log())
    assert "status=deferred" in installation.postfix.log().rpartition("relay=skychimp")[2]

    config.write_text(valid)
    installation.wait_for("effect", lambda: bool(installation.call("suppressions", "list")))


def assert_everything_is_recorded(installation: Installation) -> None:
    returned = {each["email"]: (each["status"], each["returned"]) for each in installation.call("mailings", "log", "1")}
    assert returned == dict.fromkeys(CLIENTS, ("sent", "")) | {
        COMPLAINS: ("sent", "complaint"),
        GONE: ("sent", "bounced"),
    }
    counts = installation.call("report", "1")["returned"]
    assert (counts["bounced"], counts["complaint"]) == (1, 1)
    why = installation.call("why", GONE)
    assert UNKNOWN_USER in why["chosen"][0]["returned"][0]["reply"]
    assert why["clients"][0]["bad_at"] is not None
    email, data = installation.emails(LOYAL)[0]
    local, domain = INBOX.split("@")
    assert re.fullmatch(rf"<{local}\+[0-9a-v]+@{domain}>", email["Return-Path"])
    if has_opendkim():
        assert opendkim_verifies(data, installation.dkim_record)
