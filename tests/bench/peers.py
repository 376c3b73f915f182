"""Send emails with a peer library, in a process of its own.

    python tests/bench/peers.py PEER PORT EMAILS SIZE CONNECTIONS    prints the seconds and the CPU seconds it took

Each peer is used as its documentation recommends. Connections are kept open if possible, and names are filled in by
str.format, the cheapest way (mailmerge has Jinja2 built in). The clock starts once everything is imported. "Tuned" adds
uvloop and builds emails with email.mime, which is several times faster than EmailMessage here. No peer keeps a record
of what it sent.
"""

import asyncio
import os
import smtplib
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from email.message import EmailMessage, Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.utils import formatdate, make_msgid
from importlib import import_module  # so that mypy does not need the peers
from itertools import islice
from pathlib import Path
from typing import Any

from templates import SENDER, SIZES, SUBJECT, EmailTemplate, recipients

SendFunction = Callable[[], object]
"""Sends the emails. Everything is imported and set up before."""


def smtplib_single(port: int, emails: int, template: EmailTemplate, connections: int) -> SendFunction:
    return lambda: _send_over_one_connection(port, (_message(template, *recipient) for recipient in recipients(emails)))


def smtplib_threads(port: int, emails: int, template: EmailTemplate, connections: int) -> SendFunction:
    def send_share(number: int) -> None:
        share = islice(recipients(emails), number, None, connections)
        _send_over_one_connection(port, (_message(template, *recipient) for recipient in share))

    def send() -> None:
        with ThreadPoolExecutor(connections) as pool:
            list(pool.map(send_share, range(connections)))

    return send


def aiosmtplib(port: int, emails: int, template: EmailTemplate, connections: int) -> SendFunction:
    messages = (_message(template, *recipient) for recipient in recipients(emails))
    return _over_aiosmtplib(port, messages, connections, asyncio.new_event_loop)


def aiosmtplib_tuned(port: int, emails: int, template: EmailTemplate, connections: int) -> SendFunction:
    messages = (_mime(template, *recipient) for recipient in recipients(emails))
    return _over_aiosmtplib(port, messages, connections, import_module("uvloop").new_event_loop)


def django_send_mail(port: int, emails: int, template: EmailTemplate, connections: int) -> SendFunction:
    mail = _django_mail(port)

    def send() -> None:
        for email, name in recipients(emails):
            text, html = _fill_in(template, email, name)
            mail.send_mail(SUBJECT.format(name=name), text, SENDER, [f"{name} <{email}>"], html_message=html)

    return send


def django_send_messages(port: int, emails: int, template: EmailTemplate, connections: int) -> SendFunction:
    mail = _django_mail(port)

    def message(email: str, name: str) -> Any:
        text, html = _fill_in(template, email, name)
        email_message = mail.EmailMultiAlternatives(SUBJECT.format(name=name), text, SENDER, [f"{name} <{email}>"])
        if html is not None:
            email_message.attach_alternative(html, "text/html")
        return email_message

    return lambda: mail.get_connection().send_messages([message(email, name) for email, name in recipients(emails)])


def mailmerge(port: int, emails: int, template: EmailTemplate, connections: int) -> SendFunction:
    command = import_module("mailmerge.__main__").main
    lines = ["email,name", *(f"{email},{name}" for email, name in recipients(emails)), ""]
    Path("mailmerge_database.csv").write_text("\n".join(lines))
    Path("mailmerge_template.txt").write_text(_mailmerge_template(template.with_placeholders("{{name}}", "{{email}}")))
    Path("mailmerge_server.conf").write_text(f"[smtp_server]\nhost = 127.0.0.1\nport = {port}\n")

    def send() -> None:
        with open(os.devnull, "w") as devnull, redirect_stdout(devnull):
            command(["--no-dry-run", "--no-limit", "--output-format", "raw"], standalone_mode=False)

    return send


PEERS = {
    "send_mail": django_send_mail,
    "send_messages": django_send_messages,
    "smtplib": smtplib_single,
    "threads": smtplib_threads,
    "aiosmtplib": aiosmtplib,
    "aiosmtplib-tuned": aiosmtplib_tuned,
    "mailmerge": mailmerge,
}


def _message(template: EmailTemplate, email: str, name: str) -> EmailMessage:
    text, html = _fill_in(template, email, name)
    message = EmailMessage()
    _set_headers(message, email, name)
    message.set_content(text)
    if html is not None:
        message.add_alternative(html, subtype="html")
    return message


def _mime(template: EmailTemplate, email: str, name: str) -> Message:
    text, html = _fill_in(template, email, name)
    message: Message = MIMEText(text)
    if html is not None:
        message = MIMEMultipart("alternative", _subparts=[message, MIMEText(html, "html")])
    _set_headers(message, email, name)
    return message


def _set_headers(message: Message, email: str, name: str) -> None:
    message["From"] = SENDER
    message["To"] = f"{name} <{email}>"
    message["Subject"] = SUBJECT.format(name=name)
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain="example.com")


def _fill_in(template: EmailTemplate, email: str, name: str) -> tuple[str, str | None]:
    html = None if template.html is None else template.html.format(email=email, name=name)
    return template.text.format(email=email, name=name), html


def _send_over_one_connection(port: int, messages: Iterable[Message]) -> None:
    with smtplib.SMTP("127.0.0.1", port, local_hostname="localhost") as smtp:
        for message in messages:
            smtp.send_message(message)


def _over_aiosmtplib(
    port: int, messages: Iterable[Message], connections: int, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> SendFunction:
    smtp = import_module("aiosmtplib").SMTP

    async def send_share() -> None:
        async with smtp(hostname="127.0.0.1", port=port, start_tls=False, local_hostname="localhost") as client:
            for message in messages:  # shared: each connection takes the next one
                await client.send_message(message)

    async def send() -> None:
        await asyncio.gather(*(send_share() for _ in range(connections)))

    def run() -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(send())

    return run


def _django_mail(port: int) -> Any:
    settings = import_module("django.conf").settings
    settings.configure(EMAIL_HOST="127.0.0.1", EMAIL_PORT=port)
    import_module("django").setup()
    import_module("django.core.mail.backends.smtp")
    return import_module("django.core.mail")


def _mailmerge_template(template: EmailTemplate) -> str:
    head = f"TO: {{{{name}}}} <{{{{email}}}}>\nSUBJECT: {SUBJECT.format(name='{{name}}')}\nFROM: {SENDER}\n"
    if template.html is None:
        return f"{head}\n{template.text}"
    return (
        f'{head}MIME-Version: 1.0\nContent-Type: multipart/alternative; boundary="boundary"\n\n'
        f"--boundary\nContent-Type: text/plain; charset=us-ascii\n\n{template.text}\n"
        f"--boundary\nContent-Type: text/html; charset=us-ascii\n\n{template.html}\n--boundary--\n"
    )


def main(peer: str, port: str, emails: str, size: str, connections: str) -> None:
    send = PEERS[peer](int(port), int(emails), SIZES[size], int(connections))
    started, worked = time.perf_counter(), time.process_time()
    send()
    print(time.perf_counter() - started, time.process_time() - worked)


if __name__ == "__main__":
    main(*sys.argv[1:])
