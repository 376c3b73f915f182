"""Run Debian's Postfix, Exim and OpenSMTPD on loopback, each with a configuration and files of its own."""

import os
import shutil
from collections import Counter
from collections.abc import Mapping
from email import message_from_bytes
from pathlib import Path
from typing import ClassVar

from support.debian_servers import PACKAGES, DebianServer

HOST = "mail.skychimp.test"


class MailServer(DebianServer):
    """A mail server on 127.0.0.1 for the length of a `with` block. `case` is a key of `cases`, which configures it.

    It queues what it accepts until `deliver` is called: one that is killed while it delivers may deliver twice itself.
    """

    queues: ClassVar[tuple[str, ...]]
    """The folders of its queue."""
    cases: ClassVar[Mapping[str, str]]
    """What to add to the configuration."""
    login_security: ClassVar = "none"
    """The `smtp.security` of the case "login"."""
    delivers = False
    """Whether it delivers what it accepts."""

    def __init__(self, case: str, **values: object) -> None:
        super().__init__()
        self.case = case
        self.extra = self.cases[case].format(folder=self.folder, port=self.port, host=HOST, **values)

    @classmethod
    def why_missing(cls, case: str) -> str:
        """Return why this server cannot run here with a case, "" if it can."""
        return cls.why_not_here()

    def prepare(self) -> None:
        """Create the mailbox for all recipients."""
        for name in ("inbox/new", "inbox/cur", "inbox/tmp"):
            (self.folder / name).mkdir(parents=True)
        for path in (self.folder / "inbox", *(self.folder / "inbox").iterdir()):
            shutil.chown(path, "mail", "mail")

    def is_complete(self, path: Path) -> bool:
        """Return whether a file in the queue is an email. A killed server leaves others behind, and ignores them."""
        return True

    def deliver(self) -> Counter[tuple[str, str]]:
        """Let the server deliver its queue, and return how often each (recipient, Message-ID) arrived."""
        self.stop()
        self.delivers = True
        self.start()
        self.wait_until(lambda: not self._has_queued(), "does not deliver")
        emails = [message_from_bytes(path.read_bytes()) for path in (self.folder / "inbox/new").iterdir()]
        return Counter((email["To"].rpartition("<")[2].strip(">"), email["Message-ID"]) for email in emails)

    def _has_queued(self) -> bool:
        walked = (found for queue in self.queues for found in os.walk(self.folder / queue))
        return any(self.is_complete(Path(folder, name)) for folder, _, names in walked for name in names)


class Postfix(MailServer):
    """Postfix, with a policy service where it has no setting of its own for a case."""

    name, program, account = "Postfix", "postfix", "postfix"
    mailboxes = """
        virtual_mailbox_maps = static:inbox/
        virtual_mailbox_base = {folder}
        virtual_uid_maps = static:8
        virtual_gid_maps = static:8
    """
    """Settings for where emails are delivered to, and as whom."""
    queues = tuple(f"var/spool/postfix/{name}" for name in ("maildrop", "incoming", "active", "deferred"))
    cases: ClassVar = {
        "plain": "",
        "emails per connection": """
            smtpd_delay_reject = no
            smtpd_sender_restrictions = check_policy_service inet:127.0.0.1:{policy}
        """,
        "connections": "smtpd_client_connection_count_limit = {limit}",
        "rate": """
            smtpd_client_message_rate_limit = {limit}
            anvil_rate_time_unit = {unit}
        """,
        "greylisting": "smtpd_recipient_restrictions = check_policy_service inet:127.0.0.1:{policy}",
        "login": """
            smtpd_sasl_auth_enable = yes
            smtpd_sasl_type = dovecot
            smtpd_sasl_path = inet:127.0.0.1:{authentication}
        """,
        "sender": "smtpd_sender_restrictions = check_sender_access inline:{{ {sender}=REJECT }}",
        "size": "message_size_limit = {limit}",
        "idle": "smtpd_timeout = 1s",
    }

    def prepare(self) -> None:
        super().prepare()
        (self.folder / "etc/postfix").mkdir()
        self.create_folder("var/lib/postfix")
        (self.folder / "var/spool/postfix").mkdir()
        for name in (*_POSTFIX_QUEUES, "private"):
            self.create_folder(f"var/spool/postfix/{name}", 0o700)
        for name in ("public", "maildrop"):
            self.create_folder(f"var/spool/postfix/{name}", 0o730)
        (self.folder / "var/spool/postfix/pid").mkdir()
        (self.folder / "etc/postfix/master.cf").write_text(_MASTER_CF.format(port=self.port))

    def command(self) -> list[str]:
        lines = (self.mailboxes.replace("{folder}", str(self.folder)) + self.extra).splitlines()
        extra = "\n".join(line.strip() for line in lines)
        text = _MAIN_CF.format(folder=self.folder, host=HOST, deferred="" if self.delivers else "virtual", extra=extra)
        (self.folder / "etc/postfix/main.cf").write_text(text)
        return ["/usr/lib/postfix/sbin/master", "-s"]

    def is_complete(self, path: Path) -> bool:
        return os.access(path, os.X_OK)


_POSTFIX_QUEUES = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "saved", "trace")
_MAIN_CF = """
compatibility_level = 3.6
myhostname = {host}
mydestination =
mynetworks = 127.0.0.0/8
inet_protocols = ipv4
maillog_file = /dev/stdout
alias_maps =
local_recipient_maps =
smtpd_client_event_limit_exceptions =
virtual_mailbox_domains = static:all
virtual_minimum_uid = 1
minimal_backoff_time = 1s
maximal_backoff_time = 2s
queue_run_delay = 1s
defer_transports = {deferred}
{extra}
"""
_MASTER_CF = """
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
virtual unix - n n - - virtual
error unix - - n - - error
retry unix - - n - - error
postlog unix-dgram n - n - 1 postlogd
"""


class Exim(MailServer):
    """Exim, with access control lists."""

    name, program, account = "Exim", "exim4", "Debian-exim"
    queues = ("var/spool/exim4/input",)
    cases: ClassVar = {
        "plain": "begin acl\ncheck_rcpt:",
        "emails per connection": "smtp_accept_max_per_connection = {limit}\nbegin acl\ncheck_rcpt:",
        "connections": "smtp_accept_max_per_host = {limit}\nbegin acl\ncheck_rcpt:",
        "rate": """
            begin acl
            check_rcpt:
              defer message = Sender rate overlimit - $sender_rate / $sender_rate_period
                    ratelimit = {limit} / {unit} / leaky / per_rcpt
        """,
        "greylisting": """
            begin acl
            check_rcpt:
              defer message = Greylisted - please try again later
                    !seen = -0s / key=$sender_address-$local_part@$domain
        """,
        "login": """
            begin authenticators
            plain:
              driver = plaintext
              public_name = PLAIN
              server_prompts = :
              server_condition = ${{if and {{{{eq{{$auth2}}{{{user}}}}}{{eq{{$auth3}}{{{password}}}}}}}}}
              server_set_id = $auth2
            begin acl
            check_rcpt:
        """,
        "sender": """
            begin acl
            check_rcpt:
              deny message = Sender verify failed
                   senders = {sender}
        """,
        "size": "message_size_limit = {limit}\nbegin acl\ncheck_rcpt:",
        "idle": "smtp_receive_timeout = 1s\nbegin acl\ncheck_rcpt:",
    }

    def prepare(self) -> None:
        super().prepare()
        (self.folder / "etc/exim4").mkdir()
        self.create_folder("var/spool/exim4")
        text = _EXIM_CONF.format(folder=self.folder, port=self.port, host=HOST, extra=self.extra)
        (self.folder / "etc/exim4/exim4.conf").write_text(text)

    def log(self) -> str:
        paths = self.folder.glob("var/spool/exim4/mainlog")
        return super().log() + "".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)

    def command(self) -> list[str]:
        return ["exim4", "-bdf", *(["-q1s"] if self.delivers else [])]

    def is_complete(self, path: Path) -> bool:
        return path.name.endswith("-H")


_EXIM_CONF = """
primary_hostname = {host}
daemon_smtp_ports = {port}
local_interfaces = 127.0.0.1
log_file_path = /var/spool/exim4/%slog
keep_environment =
queue_only
acl_smtp_rcpt = check_rcpt
{extra}
  accept
begin routers
inbox:
  driver = accept
  transport = inbox
begin transports
inbox:
  driver = appendfile
  directory = {folder}/inbox
  maildir_format
  user = mail
"""


class OpenSmtpd(MailServer):
    """OpenSMTPD, with filters where it has no setting of its own for a case.

    It limits neither connections nor the rate, closes an idle connection only after 5 minutes, and has logins only over
    TLS. `certificate` is a PEM file with a key and its certificate, `password_hash` is made by crypt(3).

    Debian 12 has OpenSMTPD 6.8, whose TLS handshakes fail with OpenSSL 3: "missing private key". It notes which key to
    ask its key process for in a copy of the public key, of which OpenSSL 3 knows nothing. An OpenSSL engine that can
    handle RSA and EC keys makes OpenSSL use them in the old way, without a copy.
    """

    name, program, account = "OpenSMTPD", "smtpd", "opensmtpd"
    queues = ("var/spool/smtpd/queue", "var/spool/smtpd/incoming")
    cases: ClassVar = {
        "plain": "listen on 127.0.0.1 port {port}",
        "emails per connection": "smtp limit max-mails {limit}\nlisten on 127.0.0.1 port {port}",
        "greylisting": """
            filter greylisting proc-exec "{folder}/etc/greylist"
            listen on 127.0.0.1 port {port} filter greylisting
        """,
        "sender": """
            filter sender phase mail-from match mail-from "{sender}" reject "550 5.1.0 Sender rejected"
            listen on 127.0.0.1 port {port} filter sender
        """,
        "login": """
            pki {host} cert "{certificate}"
            pki {host} key "{certificate}"
            table logins {{ {user} = "{password_hash}" }}
            listen on 127.0.0.1 port {port} smtps pki {host} auth <logins>
        """,
        "size": "smtp max-message-size {limit}\nlisten on 127.0.0.1 port {port}",
    }
    login_security = "tls"

    @classmethod
    def why_missing(cls, case: str) -> str:
        engines = (*Path(PACKAGES or "/").glob(_ENGINE), *Path("/").glob(_ENGINE))
        return super().why_missing(case) or ("" if case != "login" or engines else f"there is no {_ENGINE}")

    def prepare(self) -> None:
        super().prepare()
        if self.case == "login":
            (self.folder / "etc/ssl").mkdir()
            (self.folder / "etc/ssl/openssl.cnf").write_text(_OPENSSL_CNF)
        (self.folder / "var/spool/smtpd").mkdir(mode=0o711)
        (self.folder / "var/lib/opensmtpd/empty").mkdir(parents=True)
        text = _SMTPD_CONF.format(folder=self.folder, host=HOST, extra=self.extra)
        (self.folder / "etc/smtpd.conf").write_text(text)
        greylist = self.folder / "etc/greylist"
        greylist.write_text(_GREYLIST)
        greylist.chmod(0o755)

    def command(self) -> list[str]:
        return ["smtpd", "-d", *([] if self.delivers else ["-P", "mda"])]


_SMTPD_CONF = """
{extra}
table users {{ "@" = mail }}
action inbox maildir "{folder}/inbox" virtual <users>
match from any for any action inbox
"""
_ENGINE = "usr/lib/*/engines-3/pkcs11.so"
_OPENSSL_CNF = """
openssl_conf = all
[all]
engines = engines
[engines]
pkcs11 = engine
[engine]
default_algorithms = PKEY
init = 0
"""
_GREYLIST = """#!/bin/sh
while IFS='|' read -r kind version time direction phase session token address; do
    case "$kind|$version $seen " in
        "config|ready "*) printf 'register|filter|smtp-in|rcpt-to\\nregister|ready\\n' ;;
        "filter|"*" $address "*) echo "filter-result|$session|$token|proceed" ;;
        "filter|"*) seen="$seen $address"; echo "filter-result|$session|$token|reject|451 4.7.1 Greylisted" ;;
    esac
done
"""
