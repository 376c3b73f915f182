"""`doctor` names the fault and the remedy; a clock that can't be right stops all sending until it is accepted."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from command import Home
from sending import attempts, mailing, rows, send, settings
from servers import GREETING, CountingReceiver, ScriptedServer, hang, hear

from skychimp.access import Actor
from skychimp.errors import ClockBehind
from skychimp.models import Every, Mailing, Run
from skychimp.services import doctor
from skychimp.services.doctor import Finding
from skychimp.store.engine import Store

SENDER = "Ada <ada@skychimp.test>"


def examined(store: Store, **more: object) -> dict[str, Finding]:
    port = more.pop("port", 1)
    assert isinstance(port, int)
    return {finding.about: finding for finding in doctor.examine(store, settings(port, **more))}


def ran_at(store: Store, at: datetime) -> None:
    with store.write() as session:
        session.add(Run(host="here", pid=1, started_at=at, heartbeat_at=at, ended_at=at))


def test_a_sound_installation(store: Store, tmp_path: Path) -> None:
    with CountingReceiver(tmp_path / "arrived") as receiver:
        found = examined(store, port=receiver.port)
        assert receiver.taken == 0
    assert {about: finding.ok for about, finding in found.items()} == dict.fromkeys(
        ("config", "store", "clock", "relay"), True
    )
    assert str(store.path) in found["store"].found


def test_a_relay_that_is_away_or_says_no(store: Store) -> None:
    away = examined(store)["relay"]
    assert (away.ok, away.remedy) == (False, "check smtp.host and smtp.port; is it up?")
    with ScriptedServer([GREETING, hear, b"250 x\r\n", hang]) as server:
        bare = examined(store, port=server.port, smtp__security="starttls")["relay"]
    assert "offers no STARTTLS" in bare.found
    assert not bare.ok


def test_a_damaged_store(store: Store) -> None:
    with store.write() as session:
        for number in range(50):
            at = datetime.now(UTC)
            session.add(Run(host="x" * 2000, pid=number, started_at=at, heartbeat_at=at, ended_at=at))
    store.checkpoint()
    size = store.path.stat().st_size
    with store.path.open("r+b") as file:
        file.seek(size - 8 * 4096)
        file.write(b"\xff" * 4096 * 4)
    store.engine.dispose()  # what is cached was read before
    found = examined(store)["store"]
    assert not found.ok
    assert found.remedy == "restore a backup; keep this file for a rescue"


def test_no_sender(store: Store, tmp_path: Path) -> None:
    home = Home(tmp_path, SKYCHIMP_STORE=str(store.path))
    done = home.call("doctor", "--json")
    assert done.status == 1
    config = done.json["findings"][0]
    assert (config["about"], config["ok"]) == ("config", False)
    assert config["remedy"] == 'set mail.sender = "Name <address>"'
    assert home.call("doctor", environ={"SKYCHIMP_MAIL__SENDER": SENDER}).status == 0


def test_a_clock_far_behind_the_last_run_sends_nothing_until_it_is_accepted(
    store: Store, ada: Actor, tmp_path: Path
) -> None:
    mailing(store, ada, ["bob@example.org"], every=Every.DAY)
    ran_at(store, datetime.now(UTC) + timedelta(days=3))
    with CountingReceiver(tmp_path / "arrived") as receiver:
        with pytest.raises(ClockBehind, match="but this store was in use at"):
            send(store, settings(receiver.port))
        assert attempts(store) == []
        clock = examined(store, port=receiver.port)["clock"]
        assert (clock.ok, "doctor --accept-clock" in (clock.remedy or "")) == (False, True)
        with store.write() as session:  # it was opened for tomorrow while the clock was wrong
            session.get_one(Mailing, 1).next_at = datetime.now(UTC) + timedelta(days=3)
        assert doctor.accept_clock(store) == 1
        next_at = rows(store, Mailing)[0].next_at
        assert next_at is not None
        assert next_at < datetime.now(UTC) + timedelta(days=1)
        assert send(store, settings(receiver.port)).stopped == ""


def test_a_clock_a_little_behind_is_no_matter(store: Store, ada: Actor, tmp_path: Path) -> None:
    mailing(store, ada, ["bob@example.org"])
    ran_at(store, datetime.now(UTC) + timedelta(minutes=5))
    with CountingReceiver(tmp_path / "arrived") as receiver:
        assert send(store, settings(receiver.port)).sent == 1


def test_the_command_says_what_to_do(store: Store, tmp_path: Path) -> None:
    home = Home(tmp_path, SKYCHIMP_STORE=str(store.path), SKYCHIMP_MAIL__SENDER=SENDER)
    ran_at(store, datetime.now(UTC) + timedelta(days=3))
    done = home.call("run")
    assert done.status == 3
    assert "hint: set the clock; or, if it is right now: skychimp doctor --accept-clock" in done.err
    assert home.call("doctor", "--accept-clock", "--json").json == {"clock": "accepted", "mailings": 0}
    assert home.call("run").status == 0
