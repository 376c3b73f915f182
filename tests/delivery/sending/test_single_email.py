"""Single emails: one table says which error each reply is."""

import pytest
from support.sending import make_settings, rows

from skychimp.config.settings import MailSettings, Settings
from skychimp.delivery.sending.single_email import error_for, send_single_email
from skychimp.errors import RelayRefused, RelayUnavailable
from skychimp.models import RateCount
from skychimp.store.database import Store
from skychimp.transport.interfaces import OutgoingEmail, Phase, Reply, SendResult

EMAIL = OutgoingEmail("news@example.org", "ada@example.org", b"Subject: Hello\r\n\r\nHello\r\n")


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (SendResult(Phase.DOT, Reply(250, "2.0.0", "250 2.0.0 ok"), dot_written=True), None),
        (SendResult(Phase.DOT, None, "connection closed", dot_written=True), None),
        (SendResult(Phase.DATA, None, "connection closed"), RelayUnavailable),
        (SendResult(Phase.MAIL, Reply(421, "", "421 later")), RelayUnavailable),
        (SendResult(Phase.RCPT, Reply(450, "", "450 later")), RelayUnavailable),
        (SendResult(Phase.DOT, Reply(499, "", "499 later"), dot_written=True), RelayUnavailable),
        (SendResult(Phase.RCPT, Reply(500, "", "500 never")), RelayRefused),
        (SendResult(Phase.DOT, Reply(554, "", "554 never"), dot_written=True), RelayRefused),
    ],
)
def test_each_result_has_one_error(result: SendResult, error: type[Exception] | None) -> None:
    assert type(error_for(result)) is (error or type(None))


def test_a_multi_line_reply_becomes_one_line() -> None:
    error = error_for(SendResult(Phase.RCPT, Reply(550, "", "550-no\n550 mailbox")))
    assert error is not None
    assert error.message.endswith(": 550-no 550 mailbox")


def test_without_a_mail_server_the_email_is_written_to_the_outbox(store: Store) -> None:
    result = send_single_email(Settings(mail=MailSettings()), store, EMAIL)
    assert (result.relay, result.reply and result.reply.code) == ("outbox", 250)
    (written,) = (store.path.parent / "outbox/new").iterdir()
    assert b"Subject: Hello\n" in written.read_bytes()


def test_an_unreachable_mail_server_is_unavailable_and_nothing_counts(store: Store) -> None:
    with pytest.raises(RelayUnavailable):
        send_single_email(make_settings(1, smtp__rate="5/d"), store, EMAIL)
    assert rows(store, RateCount) == []
