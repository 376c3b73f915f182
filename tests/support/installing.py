"""Install a copy of this project as a person does who has cloned it."""

import os
import shutil
import sys
from pathlib import Path

import skychimp

PROJECT = Path(skychimp.__file__).parents[1]
_PARTS = ("README.md", "pyproject.toml", "skychimp", "skychimp.example.toml")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")


def copy_project(folder: Path) -> Path:
    """Copy what an installation needs to a new folder, and return its path."""
    folder.mkdir()
    for name in _PARTS:
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(PROJECT / name, folder)
    return folder


def install_environ() -> dict[str, str]:
    """Return the variables with which `python3` is the Python of the tests, and pip has its cache and settings.

    The versions are the tested ones, so that a new version of a dependency does not make a test fail.
    """
    passed = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.lower() in _PROXIES}
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pip"
    return {
        "PATH": f"{sys.base_prefix}/bin:/usr/bin:/bin",
        "PIP_CACHE_DIR": str(cache),
        "PIP_CONSTRAINT": str(PROJECT / ".ci/constraints.txt"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    } | passed
