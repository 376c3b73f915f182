"""Imports go down only: the house of the design, held over every module, imports inside of functions included."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import skychimp

ROOT = Path(skychimp.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
    if path != ROOT / "__init__.py"  # the version, which imports nothing
}

WORDS = {"errors", "models", "addresses", "transport.interfaces"} | {
    name for name in MODULES if name.startswith("models.")
}
"""What everybody may speak of: errors, tables and states, addresses, and what a transport is given and gives back."""

PURE = {
    "permissions",
    "durations",
    "markdown",
    "shell",
    "text",
    "delivery.scheduling.recurrence",
    "delivery.scheduling.time_input",
    "delivery.composing.compose",
    "delivery.composing.digest",
    "delivery.composing.mime",
    "delivery.composing.templates",
    "delivery.sending.retry_policy",
    "delivery.sending.replies",
    "transport.smtp_protocol",
}
"""Decisions without I/O: they know the words and each other."""

LAYERS = ("files", "config", "store transport", "delivery", "services", "site", "cli", "__main__")
"""The rest, from the lowest layer up; a module imports what is below it, or beside it in its own folder."""

IMPURE = {"asyncio", "os", "pathlib", "random", "secrets", "socket", "sqlalchemy", "sqlmodel", "subprocess"}


def imported(path: Path) -> set[str]:
    """The full names of all that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(module: str) -> set[str]:
    """The modules of the package that a module imports."""
    found = set()
    for name in imported(MODULES[module]):
        first, _, rest = name.partition(".")
        while rest and rest not in MODULES:  # the last part is what was taken out of the module
            rest = rest.rpartition(".")[0]
        if first == "skychimp" and rest:
            found.add(rest)
    return found


def layer(module: str) -> int:
    folder = module.partition(".")[0]
    (level,) = (level for level, folders in enumerate(LAYERS) if folder in folders.split())
    return level


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down_only(module: str) -> None:
    if module in WORDS:
        assert ours(module) <= WORDS
    elif module in PURE:
        assert ours(module) <= WORDS | PURE
    else:
        folder = module.partition(".")[0]
        for name in ours(module) - WORDS - PURE:
            assert layer(name) < layer(module) or name.partition(".")[0] == folder, f"{module} imports {name}"


def test_store_and_transport_never_see_each_other() -> None:
    for module in MODULES:
        folder = module.partition(".")[0]
        other = {"store": "transport", "transport": "store"}.get(folder)
        assert not [name for name in ours(module) if name.partition(".")[0] == other]


@pytest.mark.parametrize("module", sorted(PURE))
def test_the_pure_ones_do_nothing(module: str) -> None:
    assert not {name.partition(".")[0] for name in imported(MODULES[module])} & IMPURE


def test_no_import_goes_in_a_circle() -> None:
    TopologicalSorter({module: ours(module) for module in MODULES}).prepare()
