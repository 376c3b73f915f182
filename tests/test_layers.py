"""Test that imports only go down the layers, in every module and also inside functions."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import skychimp

ROOT = Path(skychimp.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
    if path != ROOT / "__init__.py"  # imports nothing
}

VOCABULARY = {"errors", "roles", "translation", "transport.interfaces"}
VOCABULARY |= {name for name in MODULES if name.startswith("models")}
"""What every module may use: errors, phrases, roles, tables and states, and what a transport is given and returns."""

PURE = {
    "addresses",
    "delivery.attachments.listing",
    "delivery.attachments.own_paths",
    "delivery.attachments.parts",
    "delivery.attachments.pictures",
    "delivery.composing.compose",
    "delivery.composing.conversions",
    "delivery.composing.digest",
    "delivery.composing.dkim",
    "delivery.composing.extras",
    "delivery.composing.field_uses",
    "delivery.composing.field_values",
    "delivery.composing.layouts.finishing",
    "delivery.composing.layouts.inlining",
    "delivery.composing.layouts.markup",
    "delivery.composing.markdown_text",
    "delivery.composing.mime",
    "delivery.composing.prepared_body",
    "delivery.composing.templates",
    "delivery.composing.work_budget",
    "delivery.inbound.delivery_status",
    "delivery.inbound.mime_parts",
    "delivery.inbound.passages",
    "delivery.inbound.plain_bounces",
    "delivery.inbound.reading",
    "delivery.inbound.ses_notifications",
    "delivery.inbound.severity",
    "delivery.scheduling.recurrence",
    "delivery.scheduling.time_input",
    "delivery.sending.refusals.codes",
    "delivery.sending.refusals.faults",
    "delivery.sending.refusals.remedies",
    "delivery.sending.refusals.verdicts",
    "delivery.sending.refusals.words",
    "delivery.sending.replies",
    "delivery.sending.retry_policy",
    "durations",
    "fields",
    "listed",
    "markdown",
    "permissions",
    "return_rates",
    "safe_json",
    "services.messages.checks",
    "services.messages.checks.findings",
    "services.messages.checks.links",
    "services.messages.checks.shown_parts",
    "services.messages.checks.texts",
    "services.messages.merge_tags",
    "services.operations.findings",
    "shell",
    "store.clients.queries.parser",
    "store.clients.queries.syntax",
    "store.clients.queries.tokens",
    "text",
    "timezones",
    "transport.smtp_auth",
    "transport.smtp_protocol",
    "web.addresses",
    "web.languages",
    "web.rate_limit",
}
"""Modules without I/O. They use only the vocabulary and each other."""

LAYERS = (
    {"files"},
    {"config"},
    {"store", "transport"},
    {"delivery.attachments"},
    {"delivery.composing"},
    {"delivery.scheduling"},
    {"delivery.sending"},
    {"delivery.inbound"},
    {"services"},
    {"site", "web"},
    {"cli"},
    {"cli.commands"},
    {"__main__"},
)
"""The other modules by folder, from the lowest layer up. A module imports from its own folder and from lower layers."""

IMPURE = {"asyncio", "os", "pathlib", "random", "secrets", "socket", "sqlalchemy", "sqlmodel", "subprocess"}


@cache
def imported_names(path: Path) -> set[str]:
    """Return the full names of everything that a module imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@cache
def imported_modules(module: str) -> set[str]:
    """Return the modules of the package that a module imports."""
    modules = set()
    for name in imported_names(MODULES[module]):
        package, _, rest = name.partition(".")
        while rest and rest not in MODULES:  # the last part is a name in the module
            rest = rest.rpartition(".")[0]
        if package == "skychimp" and rest:
            modules.add(rest)
    return modules


def folder_of(module: str) -> str:
    """Return the folder of LAYERS that a module belongs to, the most specific one."""
    folders = [folder for layer in LAYERS for folder in layer if f"{module}.".startswith(f"{folder}.")]
    assert folders or module == "delivery", f"{module} is in no layer"
    return max(folders, key=len, default="delivery.composing")


def layer_of(module: str) -> int:
    """Return the number of a module's layer, 0 for the lowest."""
    (level,) = (level for level, folders in enumerate(LAYERS) if folder_of(module) in folders)
    return level


def may_import(module: str, name: str) -> bool:
    """Return whether a module of the package may import another one."""
    if module in VOCABULARY or name in VOCABULARY:
        return name in VOCABULARY
    if module in PURE or name in PURE:
        return name in PURE
    return layer_of(name) < layer_of(module) or folder_of(name) == folder_of(module)


def test_imports_go_down_only() -> None:
    imports = [(module, name) for module in MODULES for name in imported_modules(module)]
    assert [f"{module} imports {name}" for module, name in imports if not may_import(module, name)] == []


def test_store_and_transport_do_not_import_each_other() -> None:
    for module in MODULES:
        folder = module.partition(".")[0]
        other = {"store": "transport", "transport": "store"}.get(folder)
        assert not [name for name in imported_modules(module) if name.partition(".")[0] == other]


def test_lists_are_sorted_and_exist() -> None:
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    (pure,) = (
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PURE"
    )
    assert isinstance(pure, ast.Set)
    names = [ast.literal_eval(element) for element in pure.elts]
    assert names == sorted(names)
    assert set(names) <= set(MODULES)


def test_pure_modules_do_no_io() -> None:
    imports = [(module, name) for module in sorted(PURE) for name in imported_names(MODULES[module])]
    assert [f"{module} imports {name}" for module, name in imports if name.partition(".")[0] in IMPURE] == []


def test_imports_have_no_cycle() -> None:
    TopologicalSorter({module: imported_modules(module) for module in MODULES}).prepare()
