"""Write the metrics to a file, from which node_exporter's textfile collector reads them.

https://github.com/prometheus/node_exporter#textfile-collector
"""

import logging
import os
import re
from contextlib import suppress
from pathlib import Path

from skychimp import files
from skychimp.errors import StoreFailed
from skychimp.services.monitoring.metrics import LAST_SUCCESS, read_all_metrics
from skychimp.store.database import Store

log = logging.getLogger("skychimp")

MODE = 0o644
"""The exporter runs on another account. The metrics name nobody."""

_MAX_BYTES = 100_000
_LAST_SUCCESS = re.compile(rf"^{LAST_SUCCESS} (\d{{1,12}}(?:\.\d{{1,9}})?)$".encode(), re.MULTILINE)


class MetricsFile:
    """A file of metrics. If it cannot be written, that is logged as a warning, once until it can."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last_failure = ""

    def write(self, store: Store, last_success_at: float | None) -> None:
        """Count the metrics and replace the file. Without the time of a success, the last one in the file is kept."""
        failure = ""
        try:
            text = read_all_metrics(store, last_success_at or self._read_last_success())
            with files.new_file(self._path) as file:
                os.fchmod(file.fileno(), MODE)  # whatever the umask is
                file.write(text.encode())
        except StoreFailed as error:
            failure = error.message
        except OSError as error:
            failure = error.strerror or str(error)
        if failure and failure != self._last_failure:
            log.warning("cannot write monitor.metrics_file", extra={"path": str(self._path), "reason": failure})
        self._last_failure = failure

    def _read_last_success(self) -> float | None:
        """Return the time of the last success in the file, None if it has none or is not a file of ours."""
        with suppress(OSError), os.fdopen(files.open_file(self._path), "rb") as file:
            match = _LAST_SUCCESS.search(file.read(_MAX_BYTES))
            return float(match[1]) if match else None
        return None
