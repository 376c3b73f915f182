"""What came back is shown beside "sent": in the report, in the log and in the history of the address."""

import pytest
from support.command import Home
from support.returned import bounce, complaint, return_path, send_mailing

from skychimp.config.settings import InboundSettings
from skychimp.permissions import Actor
from skychimp.services.inbound import processing
from skychimp.services.inbound.processing import ReceivedMail
from skychimp.store.database import Store

NO_USER = "550 5.1.1 no such \x1b[31muser"


@pytest.fixture
def returned(store: Store, ada: Actor) -> None:
    first, second, _ = send_mailing(store, ada, "grace", "eve", "bob")
    received = [
        ReceivedMail(bounce("grace@example.org", NO_USER), return_path(store, first)),
        ReceivedMail(complaint(f"Return-Path: <{return_path(store, second)}>\n\n")),
    ]
    processing.process(store, InboundSettings(), received)


@pytest.mark.usefixtures("returned")
def test_returned_mail_is_shown(home: Home) -> None:
    report = home.call("report", "1", "--json").json
    assert (report["sent"], report["returned"]) == (
        3,
        {"bounced": 1, "soft_bounce": 0, "policy_bounce": 0, "complaint": 1},
    )
    assert "came back after sending: 1 bounced, 1 complaint" in home.call("report", "1", width=120).out

    log = {row["email"]: (row["status"], row["returned"]) for row in home.call("mailings", "log", "1", "--json").json}
    assert log["grace@example.org"] == ("sent", "bounced")
    assert log["eve@example.org"] == ("sent", "complaint")
    assert log["bob@example.org"] == ("sent", "")

    (delivery,) = home.call("why", "grace@example.org", "--json").json["chosen"]
    assert (delivery["state"], delivery["attempts"][0]["status"]) == ("sent", "sent")
    assert [(each["kind"], each["reply"]) for each in delivery["returned"]] == [("bounced", f"smtp; {NO_USER}")]
    page = home.call("why", "grace@example.org", width=120).out
    assert "bounced smtp; 550 5.1.1 no such" in page
    assert "\x1b[31muser" not in page
    assert "\tbounced\t" in home.call("why", "grace@example.org").out
