"""Open pages in Chromium and check them with axe-core."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHECK_PAGES = Path(__file__).parents[1] / "acceptance" / "accessibility.cjs"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
DEFAULT_SIZES = {"phone": (390, 844), "desktop": (1280, 900)}


def has_packages(*packages: str) -> bool:
    """Return whether node finds these npm packages."""
    script = "process.argv.slice(1).forEach((name) => require.resolve(name + '/package.json'))"
    return (
        bool(shutil.which("node"))
        and not subprocess.run(["node", "-e", script, *packages], capture_output=True).returncode
    )


def check_pages(
    screenshots: Path, *urls: str, sizes: Mapping[str, tuple[int, int]] = DEFAULT_SIZES
) -> list[dict[str, Any]]:
    """Check pages in windows of these sizes, light and dark. Return what was found for each."""
    windows = {name: {"width": width, "height": height} for name, (width, height) in sizes.items()}
    command = ["node", str(CHECK_PAGES), CHROMIUM, str(screenshots), json.dumps(windows), *urls]
    done = subprocess.run(command, capture_output=True, timeout=100, check=False, text=True)
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results
