"""Run Python as another account of this machine, which only root can do."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import skychimp

NOBODY = 65534
"""An account that shares its group with others."""
MAIL = 8
"""An account that is the only member of its group."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another account")


def run_as(account: int, *arguments: str | Path, **popen: Any) -> "subprocess.CompletedProcess[str]":
    """Run Python with these arguments as another account with its own group only. Skip the test if that is impossible.

    The interpreter of the tests may be in a private folder. Then the system's is used, with the same packages.
    """
    interpreter = _interpreter(account)
    if interpreter is None:
        pytest.skip("only root can run commands as another account")
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": False, "timeout": 60, "cwd": "/"} | popen
    environ = _packages() | options.pop("env", {})
    return _run(account, [interpreter, *map(str, arguments)], env=environ, **options)


@cache
def _interpreter(account: int) -> str | None:
    system = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for interpreter in (sys.executable, system) if os.geteuid() == 0 else ():
        try:
            tried = _run(account, [interpreter, "-c", "import skychimp.store.schema"], env=_packages())
        except OSError:
            continue
        if tried.returncode == 0:
            return interpreter
    return None


def _run(account: int, command: list[str], **popen: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, user=account, group=account, extra_groups=[], **popen)


def _packages() -> dict[str, str]:
    project = str(Path(skychimp.__file__).parents[1])
    folders = [project, *(folder for folder in sys.path if "site-packages" in folder)]
    return {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(folders), "PYTHONDONTWRITEBYTECODE": "1"}
