"""The metrics file can be read by Prometheus, is replaced as a whole, and has what an operator needs."""

import os
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.logged import logged_events
from support.sending import create_mailing, make_addresses, make_settings, send
from support.servers import CountingReceiver

from skychimp.models import Mailing, RelayState, Suppression, SuppressionSource
from skychimp.permissions import Actor
from skychimp.services.monitoring.metrics_file import MetricsFile
from skychimp.services.reporting import rollups
from skychimp.store.database import Store

NOW = datetime.now(UTC)


def read(path: Path) -> dict[str, float]:
    """Return the samples of a metrics file by name and label. None of them has a time of its own."""
    samples = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert family.documentation
        for sample in family.samples:
            assert sample.timestamp is None
            key = f"{sample.name} {' '.join(sample.labels.values())}".strip()
            assert key not in samples
            samples[key] = sample.value
    return samples


def write(store: Store, path: Path, last_success_at: float | None = None) -> dict[str, float]:
    MetricsFile(path).write(store, last_success_at)
    return read(path)


def test_metrics_of_an_unused_store(store: Store, tmp_path: Path) -> None:
    samples = write(store, tmp_path / "s.prom")
    assert samples["skychimp_queue queued"] == samples["skychimp_attempts_total sent"] == 0
    assert samples["skychimp_relay_paused"] == samples["skychimp_held_mailings"] == samples["skychimp_store_held"] == 0
    absent = {"skychimp_last_success_timestamp_seconds", "skychimp_oldest_due_timestamp_seconds"}
    assert not absent & set(samples)


def test_metrics_of_what_was_sent_and_what_waits(store: Store, ada: Actor, tmp_path: Path) -> None:
    create_mailing(store, ada, make_addresses(7))
    before = write(store, tmp_path / "s.prom")
    assert time.time() - 3600 < before["skychimp_oldest_due_timestamp_seconds"] <= time.time()
    with CountingReceiver(tmp_path / "arrived") as receiver:
        send(store, make_settings(receiver.port))
    uncounted = write(store, tmp_path / "s.prom")
    rollups.count_new_attempts(store)
    for after in (uncounted, write(store, tmp_path / "s.prom")):
        assert after["skychimp_attempts_total sent"] == 7
        assert after["skychimp_attempts_total failed"] == 0
        assert "skychimp_oldest_due_timestamp_seconds" not in after
        assert after["skychimp_last_heartbeat_timestamp_seconds"] > before["skychimp_oldest_due_timestamp_seconds"]


def test_metrics_of_what_is_held(store: Store, ada: Actor, tmp_path: Path) -> None:
    mailing = create_mailing(store, ada, make_addresses(1))
    with store.write() as db:
        db.add(
            RelayState(
                relay="mx", paused_at=NOW, reason="535", settings_hash="x", next_probe_at=NOW + timedelta(1), probes=1
            )
        )
        db.get_one(Mailing, mailing).held_at = NOW
        db.get_one(Mailing, mailing).held_reason = 'a "quoted"\nreason'
    samples = write(store, tmp_path / "s.prom")
    assert samples["skychimp_relay_paused"] == samples["skychimp_held_mailings"] == 1
    assert samples["skychimp_relay_unavailable"] == 0


def test_reason_of_a_suppression_is_not_a_label(store: Store, ada: Actor, tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "owner_id": ada.user_id,
        "address_hash": "x",
        "source": SuppressionSource.COMMAND,
        "at": NOW,
    }
    with store.write() as db:
        db.add(Suppression(reason='he is "ill"', **values))
    samples = write(store, tmp_path / "s.prom")
    assert samples["skychimp_suppressions other"] == 1
    assert "ill" not in (tmp_path / "s.prom").read_text()


def test_last_success_is_kept_after_a_failure(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "s.prom"
    assert write(store, path, 1_700_000_000.5)["skychimp_last_success_timestamp_seconds"] == 1_700_000_000.5
    assert write(store, path)["skychimp_last_success_timestamp_seconds"] == 1_700_000_000.5
    path.write_text("skychimp_last_success_timestamp_seconds 1e999\n")
    assert "skychimp_last_success_timestamp_seconds" not in write(store, path)


def test_file_is_readable_for_the_exporter_whatever_the_umask_is(store: Store, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write(store, tmp_path / "s.prom")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "s.prom").stat().st_mode) == 0o644
    assert [path.name for path in tmp_path.glob("*s.prom*")] == ["s.prom"]


def test_link_is_replaced_and_not_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("skychimp_last_success_timestamp_seconds 5\n")
    (tmp_path / "s.prom").symlink_to("target")
    assert "skychimp_last_success_timestamp_seconds" not in write(store, tmp_path / "s.prom")
    assert (tmp_path / "target").read_text() == "skychimp_last_success_timestamp_seconds 5\n"


@pytest.mark.parametrize(
    ("name", "reason"), [("missing/s.prom", "No such file or directory"), ("folder", "Is a directory")]
)
def test_file_that_cannot_be_written_is_a_warning(store: Store, tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "folder").mkdir()
    file = MetricsFile(tmp_path / name)
    with logged_events() as events:
        for _ in range(2):
            file.write(store, 1.0)
    assert [event["reason"] for event in events] == [reason], "it is logged once"
    assert not list((tmp_path).glob(".*s.prom*"))
