"""Test the promise in a simulated world: nothing is lost, and only what is unknown may arrive twice.

To look at one seed: python -m support.simulation TEMPLATE FOLDER SEED SEED+1
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.harness import make_due_store

CLIENTS = 20
TESTS = Path(__file__).parent.parent
AT_ONCE = 25
SLOW = pytest.mark.slow


def simulate(tmp_path: Path, first: int, last: int, broken: str = "") -> dict[str, list[str]]:
    """Return the broken promises of the seeds that have any."""
    arguments = [
        str(make_due_store(tmp_path, CLIENTS)),
        str(tmp_path),
        str(first),
        str(last),
        *([broken] if broken else []),
    ]
    command = [sys.executable, "-m", "support.simulation", *arguments]
    result = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(TESTS)}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return {seed: problems for seed, problems in json.loads(result.stdout).items() if problems}


@pytest.mark.parametrize("first", [0, *(pytest.param(first, marks=SLOW) for first in range(AT_ONCE, 200, AT_ONCE))])
def test_promise_is_kept_in_simulated_worlds(tmp_path: Path, first: int) -> None:
    assert simulate(tmp_path, first, first + AT_ONCE) == {}


@pytest.mark.parametrize("seed", [3920])
def test_promise_is_kept_with_a_seed_that_once_failed(tmp_path: Path, seed: int) -> None:
    assert simulate(tmp_path, seed, seed + 1) == {}


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("first", range(200, 10_000, 200))
def test_promise_is_kept_in_many_simulated_worlds(tmp_path: Path, first: int) -> None:
    assert simulate(tmp_path, first, first + 200) == {}


@pytest.mark.parametrize(
    ("broken", "first"),
    [
        ("dot before commit", 0),
        pytest.param("fold without fence", 10, marks=SLOW),
        pytest.param("rescue without token", 0, marks=SLOW),
    ],
)
def test_broken_promise_is_noticed(tmp_path: Path, broken: str, first: int) -> None:
    """The simulation begins shortly before the first seed that notices it, and ends with that one."""
    assert simulate(tmp_path, first, 200, broken) != {}
