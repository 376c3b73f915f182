"""Tell monitoring what becomes of runs: pings of a URL, and metrics for Prometheus."""
