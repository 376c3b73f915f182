"""What comes back is understood, in the forms of many mail servers, and whatever it is, in little time."""

import email.message
import json
import time
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.returned import bounce, complaint

from skychimp.delivery.inbound import mime_parts, reading
from skychimp.delivery.inbound.reading import Kind
from skychimp.delivery.inbound.severity import Severity

TOKEN = "00" + "1a" * 16
MESSAGE_ID = "<0123456789abcdef0123456789abcdef@skychimp.test>"

POSTFIX = f"""\
Return-Path: <>
From: MAILER-DAEMON@mx.example.net (Mail Delivery System)
Subject: Undelivered Mail Returned to Sender
To: bounces+{TOKEN}@skychimp.test
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary="4Rx.170/mx.example.net"

--4Rx.170/mx.example.net
Content-Description: Notification

<grace@example.org>: host mx.example.org[192.0.2.7] said: 550 5.1.1
    <grace@example.org>: Recipient address rejected: User unknown (in reply to
    RCPT TO command)

--4Rx.170/mx.example.net
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.net
X-Postfix-Sender: rfc822; bounces+{TOKEN}@skychimp.test

Final-Recipient: rfc822; grace@example.org
Original-Recipient: rfc822;grace@example.org
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx.example.org
Diagnostic-Code: smtp; 550 5.1.1 <grace@example.org>: Recipient address rejected:
    User unknown

--4Rx.170/mx.example.net
Content-Type: text/rfc822-headers

Return-Path: <bounces+{TOKEN}@skychimp.test>
Message-ID: {MESSAGE_ID}

--4Rx.170/mx.example.net--
"""

EXIM = f"""\
X-Failed-Recipients: grace@example.org
Auto-Submitted: auto-replied
From: Mail Delivery System <Mailer-Daemon@mx.example.net>
To: bounces+{TOKEN}@skychimp.test
Subject: Mail delivery failed: returning message to sender

This message was created automatically by mail delivery software.

A message that you sent could not be delivered to one or more of its
recipients. This is a permanent error. The following address(es) failed:

  grace@example.org
    host mx.example.org [192.0.2.7]
    SMTP error from remote mail server after RCPT TO:<grace@example.org>:
    550 no such mailbox here

------ This is a copy of your message, including all the headers. ------

Message-ID: {MESSAGE_ID}
Subject: Hello
"""

QMAIL = f"""\
From: MAILER-DAEMON@mx.example.net
To: bounces+{TOKEN}@skychimp.test
Subject: failure notice

Hi. This is the qmail-send program at mx.example.net.
I'm afraid I wasn't able to deliver your message to the following addresses.
This is a permanent error; I've given up. Sorry it didn't work out.

<grace@example.org>:
192.0.2.7 does not like recipient.
Remote host said: 550 sorry, no mailbox here by that name (#5.1.1 - chkuser)
Giving up on 192.0.2.7.

--- Below this line is a copy of the message.

Message-ID: {MESSAGE_ID}
"""

YAHOO = f"""\
From: MAILER-DAEMON@yahoo.example
Subject: Failure Notice

Sorry, we were unable to deliver your message to the following address.

<grace@example.org>:
Remote host said: 550 5.1.1 <grace@example.org>... User unknown
 [RCPT_TO]

--- Below this line is a copy of the message.

Message-ID: {MESSAGE_ID}
"""

EXCHANGE = """\
From: postmaster@corp.example
Subject: Undeliverable: Hello
Content-Type: multipart/report; report-type=delivery-status; boundary="b1"

--b1
Content-Type: multipart/alternative; boundary="b2"

--b2
Content-Type: text/plain; charset="us-ascii"

Delivery has failed to these recipients or groups:

grace@example.org
The email address wasn't found at the destination domain.

--b2--
--b1
Content-Type: message/delivery-status

Reporting-MTA: dns;EX1.corp.example

Final-recipient: RFC822;grace@example.org
Action: failed
Status: 5.1.10
Diagnostic-Code: smtp;550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup

--b1--
"""

GMAIL = """\
From: Mail Delivery Subsystem <mailer-daemon@googlemail.example>
Subject: Delivery Status Notification (Failure)
Content-Type: multipart/report; boundary="g"; report-type=delivery-status

--g
Content-Type: multipart/related; boundary="r"

--r
Content-Type: text/html; charset="UTF-8"

<html><body>Your message wasn't delivered to <b>grace@example.org</b> because the address couldn't be found.</body>

--r--
--g
Content-Type: message/delivery-status

Reporting-MTA: dns; googlemail.example
Final-Recipient: rfc822; grace@example.org
Action: failed
Status: 5.1.1
Diagnostic-Code: smtp; 550-5.1.1 The email account that you tried to reach does not exist. Please try
 550-5.1.1 double-checking the recipient's email address
--g--
"""

SENDMAIL_OLD = """\
From: Mail Delivery Subsystem <MAILER-DAEMON@mx.example.net>
Subject: Returned mail: User unknown

   ----- The following addresses had permanent fatal errors -----
<grace@example.org>

   ----- Transcript of session follows -----
... while talking to mx.example.org.:
>>> RCPT To:<grace@example.org>
<<< 550 <grace@example.org>... User unknown
550 <grace@example.org>... User unknown

   ----- Original message follows -----
Subject: Hello
"""

DRAGONFLY = """\
From: MAILER-DAEMON <>
Subject: Mail delivery failed

This is the DragonFly Mail Agent at mx.example.net.

There was an error delivering your mail to <grace@example.org>.

mx.example.org [192.0.2.7] did not like our RCPT TO:
550 5.1.1 <grace@example.org>: User unknown

Message headers follow.
"""

NOTES = """\
From: postmaster@corp.example
Return-Path: <>
Subject: Undeliverable message

------- Failure Reasons  --------

User  not listed in public Name & Address Book
grace@example.org

------- Returned Message --------

Subject: Hello
"""

OPENSMTPD = """\
From: Mailer Daemon <MAILER-DAEMON@mx.example.net>
To: bounces@skychimp.test
Subject: Delivery status notification: error

    An error has occurred while attempting to deliver a message for
    the following list of recipients:

grace@example.org: 550 5.1.1 <grace@example.org>... User Unknown

    Below is a copy of the original message:
"""

SMS_GATEWAY = """\
From: post_master@sms.example
To: bounces@skychimp.test
Subject: Re: Hello
Content-Type: multipart/alternative;
boundary="not folded"

--not folded
Content-Type: text/plain

Error: Invalid user address
550 - Requested action not taken: no such user here

Message details:
  MAIL FROM: bounces@skychimp.test
  RCPT TO: grace@example.org
  From: news@skychimp.test
--not folded--
"""

WORKMAIL = """\
From: mail.example
Subject: Undelivered Mail Returned to Sender
Content-Type: multipart/mixed; boundary="w"

--w
Content-Type: text/plain

An error occurred while trying to deliver the mail to the following recipients:
grace@example.org

Technical report:

Reporting-MTA: dns; mx.example.net
Action: failed
Final-Recipient: rfc822; grace@example.org
Diagnostic-Code: smtp; 550 5.1.1 no such user
Status: 5.1.1
--w--
"""

STATUS_COMMENT = """\
From: postmaster@corp.example
Subject: Delivery Notification
Content-Type: multipart/report; report-type=delivery-status; boundary="s"

--s
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.corp.example

Final-recipient: rfc822;grace@example.org
Action: failed
Status: 5.4.4 (Illegal host/domain name found)
--s--
"""

DOMINO = STATUS_COMMENT.replace("5.4.4 (Illegal host/domain name found)", "5.0.0").replace(
    "Action:", "Diagnostic-Code: X-Notes; Grace は Domino ディレクトリには見つかりません\nAction:"
)

NOTIFICATION = {
    "notificationType": "Bounce",
    "bounce": {
        "bounceType": "Permanent",
        "bouncedRecipients": [
            {"emailAddress": "grace@example.org", "status": "5.1.1", "diagnosticCode": "smtp; 550 5.1.1 no such user"}
        ],
    },
    "mail": {"headers": [{"name": "Message-ID", "value": MESSAGE_ID}]},
}
SNS = "From: no-reply@sns.amazonaws.com\nSubject: AWS Notification Message\n\n"
SES = SNS + json.dumps(NOTIFICATION).replace('"status"', '!\n "status"') + "\n\n--\nTo unsubscribe ...\n"
SES_IN_SNS = SNS + json.dumps({"Type": "Notification", "Message": json.dumps(NOTIFICATION)})

HARD_BOUNCES = {
    "notes": NOTES,
    "opensmtpd": OPENSMTPD,
    "sms_gateway": SMS_GATEWAY,
    "workmail": WORKMAIL,
    "status_comment": STATUS_COMMENT,
    "domino": DOMINO,
    "ses": SES,
    "ses_in_sns": SES_IN_SNS,
    "postfix": POSTFIX,
    "exim": EXIM,
    "qmail": QMAIL,
    "yahoo": YAHOO,
    "exchange": EXCHANGE,
    "gmail": GMAIL,
    "sendmail_old": SENDMAIL_OLD,
    "dragonfly": DRAGONFLY,
}


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("server", HARD_BOUNCES)
def test_bounce_of_missing_address_is_hard(server: str, line_end: str) -> None:
    mail = reading.read(HARD_BOUNCES[server].replace("\n", line_end).encode())

    assert mail.kind == Kind.BOUNCE
    assert [(failure.recipient, failure.severity) for failure in mail.failures] == [
        ("grace@example.org", Severity.HARD)
    ]


def test_what_names_the_email_is_found() -> None:
    mail = reading.read(POSTFIX.encode())

    assert mail.addressees == [f"bounces+{TOKEN}@skychimp.test"]
    assert mail.message_ids == [MESSAGE_ID]
    assert TOKEN in mail.possible_tokens
    assert mail.failures[0].original == "grace@example.org"
    assert mail.failures[0].reply.endswith("Recipient address rejected: User unknown")


class Reply(NamedTuple):
    """A reply in a delivery status, and what it says about the address."""

    reply: str
    status: str
    severity: Severity


HARD, SOFT, POLICY = Severity.HARD, Severity.SOFT, Severity.POLICY
REPLIES = [
    Reply("550 5.1.1 no such user", "5.1.1", HARD),
    Reply("550 user unknown", "5.0.0", HARD),
    Reply(
        "Host or domain name not found. Name service error for name=example.invalid type=A: Host not found",
        "5.4.4",
        HARD,
    ),
    Reply("550 5.4.1 [a@example.org]: Recipient address rejected: Access denied", "5.4.1", HARD),
    Reply("550 5.1.10 RESOLVER.ADR.RecipientNotFound; not found", "5.1.10", HARD),
    Reply("host mx4.hotmail.com: 550 Requested action not taken: mailbox unavailable", "", HARD),
    Reply("550 Requested action not taken: mailbox unavailable", "5.0.0", SOFT),
    Reply("552 5.2.2 mailbox full", "5.2.2", SOFT),
    Reply("450 4.2.1 try later", "4.2.1", SOFT),
    Reply("connect to mx.example.org[192.0.2.7]:25: Connection timed out", "4.4.1", SOFT),
    Reply("Host not found, try again", "4.4.3", SOFT),
    Reply("delivery temporarily suspended", "4.4.7", SOFT),
    Reply("550 5.7.1 message refused by policy", "5.7.1", POLICY),
    Reply("554 5.7.1 Service unavailable; client [192.0.2.9] blocked using zen.example.org", "5.7.1", POLICY),
    Reply("550 5.7.26 DMARC fails", "5.7.26", POLICY),
    Reply("550 5.7.509 access denied, sending domain does not pass DMARC", "5.7.509", POLICY),
    Reply("553 5.1.8 sender address rejected: domain not found", "5.1.8", POLICY),
    Reply("550 sender domain does not exist", "5.0.0", POLICY),
    Reply("552 5.3.4 message too large", "5.3.4", POLICY),
    Reply("550 5.6.0 content rejected", "5.6.0", POLICY),
    Reply("501 5.0.0 invalid domain name in HELO", "5.0.0", POLICY),
    Reply("", "5.0.0", SOFT),
    Reply("521 5.3.2 Recipient address rejected: System not accepting network messages", "5.3.2", HARD),
    Reply("550 5.3.2 System not accepting network messages", "5.3.2", SOFT),
    Reply("550 Host does not accept mail", "5.7.27", HARD),
    Reply("550 5.7.27 Sender address has null MX", "5.7.27", POLICY),
    Reply("x-unix; procmail: Couldn't create /var/mail/grace: No such user", "5.1.1", SOFT),
    Reply("554 5.7.1 <grace@example.org>: Recipient address rejected: Access denied", "5.7.1", POLICY),
    Reply("550 Recipient address rejected.", "5.0.0", SOFT),
    Reply("550 5.2.1 The email account that you tried to reach is disabled", "5.2.1", HARD),
    Reply("550 Destinatario desconocido", "5.0.0", HARD),
    Reply("550 Destinatario desconocido o mailbox lleno", "5.0.0", SOFT),
    Reply("550 Empfaenger unbekannt", "5.0.0", HARD),
    Reply("550 пользователь не найден", "5.0.0", HARD),
]


@pytest.mark.parametrize(("reply", "status", "severity"), REPLIES)
def test_severity_of_a_reply(reply: str, status: str, severity: Severity) -> None:
    (failure,) = reading.read(bounce("grace@example.org", reply, status=status)).failures
    assert failure.severity == severity


SEVERAL = f"""\
From: MAILER-DAEMON@mx.example.net
To: bounces+{TOKEN}@skychimp.test
Subject: Returned mail: see transcript for details

   ----- The following addresses had permanent fatal errors -----
<full@example.org>
<grace@example.org>
<reset@example.net>

   ----- Transcript of session follows -----
... while talking to mx.example.org.:
>>> RCPT To:<full@example.org>
<<< 552 5.2.2 <full@example.org>... Mailbox full
552 5.2.2 <full@example.org>... Mailbox full
>>> RCPT To:<grace@example.org>
<<< 550 5.1.1 <grace@example.org>... User unknown
550 5.1.1 <grace@example.org>... User unknown
554 <reset@example.net>... Remote protocol error: Connection reset by peer
550 example.com (smtp)... 550 Host unknown

   ----- Original message follows -----
"""


def test_what_is_said_about_one_recipient_counts_for_no_other() -> None:
    failures = reading.read(SEVERAL.encode()).failures
    assert {failure.recipient: failure.severity for failure in failures} == {
        "full@example.org": SOFT,
        "grace@example.org": HARD,
        "reset@example.net": SOFT,
    }


def test_iso_2022_jp_is_read_where_no_character_set_is_named() -> None:
    (failure,) = reading.read(DOMINO.encode("iso-2022-jp")).failures
    assert failure.severity == HARD


def test_complaint_of_outlook_com_is_read() -> None:
    text = f"""\
From: staff@hotmail.com
Subject: complaint about message from 192.0.2.7
Content-Type: multipart/mixed; boundary="m"

--m
Content-Type: message/rfc822

X-HmXmrOriginalRecipient: grace@example.org
To: other@example.org
Message-ID: {MESSAGE_ID}
List-Unsubscribe: <https://skychimp.test/u/{TOKEN}>

Hello
--m--
"""
    mail = reading.read(text.encode())
    assert (mail.kind, mail.recipients, mail.message_ids) == (Kind.COMPLAINT, ["grace@example.org"], [MESSAGE_ID])
    assert TOKEN in mail.possible_tokens


def test_complaint_of_amazon_ses_is_read() -> None:
    said = {"eventType": "Complaint", "complaint": {"complainedRecipients": [{"emailAddress": "grace@example.org"}]}}
    mail = reading.read((SNS + json.dumps(said)).encode())
    assert (mail.kind, mail.recipients) == (Kind.COMPLAINT, ["grace@example.org"])


OTHER_NOTIFICATIONS = [
    {"notificationType": "Delivery", "delivery": {"recipients": ["grace@example.org"]}},
    {"notificationType": "Bounce", "bounce": {"bouncedRecipients": []}},
    {"notificationType": "Bounce", "bounce": ["grace@example.org"]},
    {"notificationType": "Complaint", "complaint": {"complainedRecipients": "grace@example.org"}},
    {"notificationType": {"a": 1}, "Message": "[1]"},
]


@pytest.mark.parametrize("said", OTHER_NOTIFICATIONS)
def test_other_notifications_are_nothing(said: object) -> None:
    assert reading.read((SNS + json.dumps(said)).encode()).kind == Kind.OTHER


@pytest.mark.parametrize("action", ["delayed", "delivered", "relayed", "expanded"])
def test_other_reports_are_no_bounces(action: str) -> None:
    mail = reading.read(bounce("grace@example.org", "450 4.4.1 no answer yet", status="4.4.1", action=action))
    assert (mail.kind, mail.failures) == (Kind.AUTOMATIC, ())


@pytest.mark.parametrize("feedback_type", ["abuse", "Abuse", "fraud", "opt-out"])
def test_complaint_is_read(feedback_type: str) -> None:
    returned = f"Message-ID: {MESSAGE_ID}\nReturn-Path: <bounces+{TOKEN}@skychimp.test>\n\nHello"
    more = "Original-Rcpt-To: <grace@example.org>\n"
    mail = reading.read(complaint(returned, feedback_type=feedback_type, more=more))
    assert mail.kind == Kind.COMPLAINT
    assert (mail.recipients, mail.message_ids) == (["grace@example.org"], [MESSAGE_ID])
    assert TOKEN in mail.possible_tokens


@pytest.mark.parametrize("feedback_type", ["not-spam", "auth-failure", "other", "virus", ""])
def test_other_feedback_is_no_complaint(feedback_type: str) -> None:
    assert reading.read(complaint("Subject: Hello\n\n", feedback_type=feedback_type)).kind == Kind.AUTOMATIC


AUTOMATIC = [
    "Auto-Submitted: auto-replied (vacation)",
    "Auto-Submitted: auto-generated",
    "Precedence: auto_reply",
    "X-Autoreply: yes",
    "X-Autorespond: away",
    "Subject: Automatic reply: Hello",
    "Subject: Out of Office: Hello",
    "Return-Path: <>",
    "X-Boxtrapper: challenge",
]


@pytest.mark.parametrize("header", AUTOMATIC)
def test_automatic_reply_is_no_bounce(header: str) -> None:
    text = f"{header}\nFrom: Grace <grace@example.org>\nTo: bounces@skychimp.test\n\n550 123 or user unknown"
    assert reading.read(text.encode()).kind == Kind.AUTOMATIC


def test_reply_of_a_person_is_something_else() -> None:
    text = b"From: Grace <grace@example.org>\nSubject: Re: Hello\nAuto-Submitted: no\n\n550 5.1.1 is a nice number"
    assert reading.read(text).kind == Kind.OTHER


def test_digest_does_not_depend_on_the_way() -> None:
    """Mail servers add header fields and change line ends."""
    first, other = EXIM.encode(), EXIM.replace("no such mailbox", "no such person").encode()
    same = b"Delivered-To: somebody@skychimp.test\r\nReceived: x\r\n" + first.replace(b"\n", b"\r\n") + b"\r\n"

    assert reading.read(first).digest == reading.read(same).digest
    assert reading.read(first).digest != reading.read(other).digest


def test_status_fields_may_come_in_any_order() -> None:
    text = POSTFIX.replace("Final-Recipient: rfc822; grace@example.org\n", "")
    text = text.replace(
        "    User unknown\n\n--4Rx", "    User unknown\nFinal-Recipient: rfc822; grace@example.org\n\n--4Rx"
    )
    assert [failure.recipient for failure in reading.read(text.encode()).failures] == ["grace@example.org"]


def test_wrong_boundary_is_forgiven() -> None:
    wrong = POSTFIX.replace('boundary="4Rx.170', 'boundary="4Rx.171')
    assert reading.read(wrong.encode()).failures[0].severity == Severity.HARD


@pytest.mark.parametrize("encoding", ["7bit", "8bit", "base64", "quoted-printable"])
@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-5", "koi8-r"])
def test_text_is_read_as_the_standard_library_reads_it(encoding: str, charset: str) -> None:
    text = "user unknown\n" if encoding == "7bit" else "пользователь не найден = нет\n"
    message = email.message.EmailMessage()
    message.set_content(text, charset=charset, cte=encoding)
    message.add_attachment("other")

    (whole, first, second) = mime_parts.parse(message.as_bytes()).walk()

    assert [whole.content_type, first.content_type, second.content_type] == ["multipart/mixed", *["text/plain"] * 2]
    assert (first.text().strip(), second.text().strip()) == (text.strip(), "other")


# Anything at all

LINES = st.sampled_from(
    [
        b"Content-Type: multipart/report; boundary=b", b"Content-Type: multipart/mixed; boundary=bb", b"--b", b"--bb",
        b"--b--", b"", b"", b"Content-Type: message/delivery-status", b"Final-Recipient: rfc822; a@example.org",
        b"Content-Type: message/feedback-report", b"Feedback-Type: abuse", b"Action: failed", b"Status: 5.1.1",
        b"Diagnostic-Code: smtp; 550 5.1.1 no", b"From: mailer-daemon", b"Subject: failure notice", b"<a@example.org>:",
        b"Hi. This is the qmail-send program", b"550 user unknown", b"Content-Transfer-Encoding: base64", b"\xff\x00=",
        b"Content-Type: text/plain; charset=punycode", b" folded", b"X-Failed-Recipients: a@example.org, b",
    ]
)  # fmt: skip


@given(st.one_of(st.binary(max_size=300), st.lists(LINES, max_size=40).map(b"\n".join)))
@example(b"")
@example(b"\n\n")
@example(b"From \n")
def test_any_bytes_are_read(data: bytes) -> None:
    mail = reading.read(data)
    assert (mail.kind == Kind.BOUNCE) == bool(mail.failures)


SIZE = mime_parts.MAX_SIZE
COSTLY = {
    "long_header": b"Content-Type: multipart/mixed; x=" + b'";' * (SIZE // 2),
    "many_headers": b"X: y\n" * (SIZE // 5),
    "folded_header": b"X: y\n" + b" z\n" * (SIZE // 3),
    "nested": b"".join(
        b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (depth, depth) for depth in range(15_000)
    ),
    "many_parts": b"Content-Type: multipart/report; boundary=b\n\n" + b"--b\n\nx\n" * (SIZE // 8),
    "from_a_server": b"From: mailer-daemon\nSubject: failure\n\n" + b"<a@example.org>:\n550 " * (SIZE // 20),
    "long_line": b"From: mailer-daemon\nSubject: failure\n\n" + b"mailbox user 550 5.1.1 <" * (SIZE // 24),
    "qmail": b"From: mailer-daemon\n\nqmail-send program\n" + b"<a@b>:\n" * (SIZE // 7),
    "many_recipients": b"Content-Type: multipart/report; boundary=b\n\n--b\nContent-Type: message/delivery-status\n\n"
    + b"Final-Recipient: rfc822; a@example.org\nAction: failed\n\n" * (SIZE // 60),
    "tokens": b"From: mailer-daemon\n\n550 user unknown\n" + b"0123456789abcdefghijklmnopqrst " * (SIZE // 32),
    "html": b"From: mailer-daemon\nContent-Type: text/html\n\n" + b"<" * SIZE,
    "json": SNS.encode() + b'{"a":' * (SIZE // 5),
    "said_by_many": b"From: mailer-daemon\nX-Failed-Recipients: "
    + b",".join(b"a%d@example.org" % number for number in range(300))
    + b"\n\n550 user unknown\n"
    + b"a1@example.org a19@example.org 550 no\n" * (SIZE // 40),
    "named_by_many": b"From: mailer-daemon\n\n550 user unknown\n" + b"a@a.a." * (SIZE // 6),
    "addresses": b"To: " + b"a" * SIZE + b"@",
}


@pytest.mark.parametrize("name", COSTLY)
def test_costly_email_takes_little_time(name: str) -> None:
    started = time.process_time()
    reading.read(COSTLY[name])
    assert time.process_time() - started < 3  # a second on a slow machine; without limits it takes minutes
