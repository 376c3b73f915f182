"""Test that folders and functions stay small, and that old names do not come back."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

import skychimp

ROOT = Path(skychimp.__file__).parent
PROJECT = ROOT.parent
CONTRIBUTING = (PROJECT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
MODULES = [path for path in sorted(ROOT.rglob("*.py")) if "migrations" not in path.parts]
FOLDERS = sorted({path.parent for path in MODULES})

MAX_MODULES = 17
MAX_MEDIAN, MAX_P90 = 5, 15  # lines of a function

RENAMED_MODULES = {
    "attempts": "delivery_log",
    "copies": "backup_file",
    "delays": "login_throttle",
    "exchange": "interfaces",
    "figures": "rollups",
    "imports": "client_import",
    "letters": "account_mail",
    "other_tools": "third_party_exports",
    "outcome": "retry_policy",
    "outlook": "forecast",
    "personal": "privacy",
    "receiver": "demo_server",
    "relay": "connection_pool",
    "relays": "relay_pauses",
    "sender": "sender_dns",
    "soundness": "integrity",
    "states": "enums",
    "zones": "tzdata_changes",
}
RENAMED_SYMBOLS = {
    "Answer": "SendResult",
    "Claimed": "ClaimedDelivery",
    "Entry": "AttemptRecord",
    "GUEST": "ANONYMOUS",
    "Page": "ListOptions",
    "Permit": "commit_intent",
    "Person": "NewClient",
    "Reach": "Scope",
    "Recall": "cached",
    "Surroundings": "DaemonHooks",
    "Tally": "RunStats",
    "Words": "MessageContent",
    "afresh": "refresh",
    "call_off": "cancel_obsolete",
    "doubt": "mark_unknown",
    "heed": "apply_pause",
    "look": "poll",
    "narrow": "apply",
    "pass_over": "record_missed",
    "plain_errors": "translate_db_errors",
    "reach": "authorize",
    "settle": "resolve_as",
    "take_back_of": "requeue_for_owner",
}
"""Old name -> new name."""


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """Return the number of lines of a function's body, without its docstring, comments and empty lines."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    if not body:
        return 0
    code = (line.strip() for line in lines[body[0].lineno - 1 : body[-1].end_lineno])
    return sum(bool(line) and not line.startswith("#") for line in code)


def defined_names(path: Path) -> set[str]:
    """Return the names of a module's functions, classes and variables of the module and of classes."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.Module | ast.ClassDef):
            for statement in node.body:
                if isinstance(statement, ast.Assign):
                    names |= {target.id for target in statement.targets if isinstance(target, ast.Name)}
                elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    names.add(statement.target.id)
    return names


def test_folders_have_few_modules() -> None:
    many_by_design = ROOT / "cli" / "commands"  # one module for each command
    sizes = {folder: len(list(folder.glob("*.py"))) - (folder / "__init__.py").exists() for folder in FOLDERS}
    full = [folder for folder, size in sizes.items() if size > MAX_MODULES and folder != many_by_design]
    assert full == [], "move some of their modules to a folder of their own"


def test_functions_are_short() -> None:
    lengths = []
    for path in MODULES:
        lines = path.read_text(encoding="utf-8").splitlines()
        lengths += [length(function, lines) for function in functions(path)]
    assert median(lengths) <= MAX_MEDIAN
    assert quantiles(lengths, n=10)[8] <= MAX_P90


def test_no_old_name_of_a_module_comes_back() -> None:
    assert {path: RENAMED_MODULES[path.stem] for path in MODULES if path.stem in RENAMED_MODULES} == {}


def test_no_old_name_in_a_module_comes_back() -> None:
    names = [(path, name.removeprefix("_")) for path in MODULES for name in defined_names(path)]
    assert [(path, old, RENAMED_SYMBOLS[old]) for path, old in names if old in RENAMED_SYMBOLS] == []


# The guide for contributors


def test_contributing_names_existing_files_and_folders() -> None:
    named = set(re.findall(r"`((?:[\w.]+/)*(?:\w+\.(?:py|toml|html|txt)|\w+/))`", CONTRIBUTING))
    assert len(named) > 40
    paths = [PROJECT / "skychimp.example.toml", *(PROJECT / ".ci").iterdir(), ROOT, PROJECT / "tests"]
    paths += [*ROOT.rglob("*"), *(PROJECT / "tests").rglob("*")]
    existing = {f"/{path.relative_to(PROJECT)}{'/' if path.is_dir() else ''}" for path in paths}
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in existing)] == []


def test_contributing_is_short() -> None:
    assert len(CONTRIBUTING.splitlines()) < 150
