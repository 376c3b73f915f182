"""Templates: a subset of Jinja2 that can neither loop nor grow without bound; pure.

A source is checked by its syntax tree before it is ever rendered: output, attributes, comparisons and boolean logic,
if/else, one `for` over `client.tags`, and a listed set of filters. Client data is never source: not of a template, and
not of Markdown or HTML.
"""

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from skychimp.errors import InvalidValue

ATTRIBUTES = {"client": ("email", "name", "comment", "tags"), "mailing": ("id",)}
NAMES = (*ATTRIBUTES, "due_at")
FILTERS = ("capitalize", "date", "default", "first", "join", "last", "length", "lower", "title", "trim", "upper")
LONGEST_ARGUMENT = 100
MOST_FILTERS = 5
LARGEST = 1_000_000  # characters, of a source and of what comes of it
ALLOWED = "allowed: {{ client.name }} and the like, if/else, for over client.tags, filters " + ", ".join(FILTERS)

_NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Getattr, nodes.Const, nodes.Compare,
    nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.If, nodes.CondExpr, nodes.For, nodes.Filter, nodes.List,
    nodes.Tuple,
)  # fmt: skip


class DueAt:
    """An occurrence's time as a template sees it: `2026-12-01 09:00`, or by `| date(FORMAT)`."""

    def __init__(self, at: datetime) -> None:
        self._at = at

    def __str__(self) -> str:
        return self.date("%Y-%m-%d %H:%M")

    def date(self, form: str) -> str:
        return self._at.strftime(form)


class Text:
    """A compiled template, rendered over one context that all letters share."""

    def __init__(self, source: str, *, html: bool = False) -> None:
        template = _compile(source, html)
        self._render = template.root_render_func
        self._context = template.new_context()
        self.is_constant = not any(True for _ in _expressions(source))

    def render(self, values: Mapping[str, Any]) -> str:
        """The text for one client. Raises InvalidValue."""
        self._context.parent.update(values)
        try:
            text = "".join(self._render(self._context))
        except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise InvalidValue(f"the template can't be rendered: {error}") from None
        if len(text) > LARGEST:
            raise InvalidValue(f"the template came to more than {LARGEST} characters")
        return text


def check(source: str, field: str) -> None:
    """Raises InvalidValue where a source is more than the subset; `field` names it in the message."""
    if len(source) > LARGEST:
        raise InvalidValue(f"the {field} is longer than {LARGEST} characters")
    try:
        tree = _ENVIRONMENT.parse(source)
        _check(tree, loop_names=frozenset())
    except TemplateSyntaxError as error:
        raise InvalidValue(f"the {field}, line {error.lineno}: {error.message}", ALLOWED) from None


def from_markdown(source: str) -> str:
    """The HTML template that a Markdown template stands for; raw HTML in it is shown, not obeyed.

    The expressions are carried through as plain words that Markdown leaves alone, and put back.
    """
    from markdown_it import MarkdownIt

    nonce = secrets.token_hex(8)
    parts: list[str] = []

    def word(expression: str) -> str:
        parts.append(expression)
        return f"x{nonce}x{len(parts) - 1}x"

    carried = "".join(word(text) if is_expression else text for text, is_expression in _pieces(source))
    html = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).render(carried)
    words = re.compile(rf"x{nonce}x(\d+)x")
    alone = re.compile(rf"<p>(x{nonce}x\d+x)</p>")
    html = alone.sub(lambda found: found[1] if _is_statement(parts[_number(found[1])]) else found[0], html)
    html = re.sub(r'(?:href|src)="[^"]*"', lambda link: words.sub(lambda w: _for_link(parts[int(w[1])]), link[0]), html)
    return words.sub(lambda found: parts[int(found[1])], html)


def _number(word: str) -> int:
    return int(word.split("x")[-2])


def _is_statement(expression: str) -> bool:
    return expression.startswith("{%")


def _for_link(expression: str) -> str:
    """The expression with its value quoted as a part of a URL, so that client data can't be a link of its own."""
    inner = re.fullmatch(r"\{\{-?(.*?)-?\}\}", expression, re.DOTALL)
    return f"{{{{ ({inner[1]}) | urlencode }}}}" if inner else expression


def _pieces(source: str) -> Iterator[tuple[str, bool]]:
    """The source cut into plain text and expressions; joined again they are the source."""
    opened = ""
    for _, kind, value in _ENVIRONMENT.lex(source):
        if opened or kind.endswith("_begin"):
            opened += value
            if kind.endswith("_end"):
                yield opened, True
                opened = ""
        else:
            yield value, False


def _expressions(source: str) -> Iterable[str]:
    return (text for text, is_expression in _pieces(source) if is_expression)


def _check(node: nodes.Node, loop_names: frozenset[str]) -> None:
    if not isinstance(node, _NODES):
        raise _refused(node, f"{type(node).__name__.lower()} is not allowed")
    if isinstance(node, nodes.Name):
        _check_name(node, loop_names)
    elif isinstance(node, nodes.Getattr):
        _check_attribute(node)
        return
    elif isinstance(node, nodes.Filter):
        _check_filter(node)
    elif isinstance(node, nodes.For):
        if loop_names or node.recursive or not isinstance(node.target, nodes.Name) or not _is_tags(node.iter):
            raise _refused(node, "a for goes over client.tags, once, and not inside another")
        loop_names |= {node.target.name}
    for child in node.iter_child_nodes():
        _check(child, loop_names)


def _check_name(node: nodes.Name, loop_names: frozenset[str]) -> None:
    if node.name not in NAMES and node.name not in loop_names:
        raise _refused(node, f"there is no {node.name}{_similar(node.name, NAMES)}")


def _check_attribute(node: nodes.Getattr) -> None:
    owner = node.node.name if isinstance(node.node, nodes.Name) else ""
    if node.attr not in ATTRIBUTES.get(owner, ()):
        near = _similar(node.attr, ATTRIBUTES.get(owner, ()), f"{owner}.")
        raise _refused(node, f"there is no {owner or 'such'}.{node.attr}{near}")


def _check_filter(node: nodes.Filter) -> None:
    if node.name not in FILTERS:
        raise _refused(node, f"there is no filter {node.name}{_similar(node.name, FILTERS)}")
    if node.kwargs or node.dyn_args or node.dyn_kwargs or not all(map(_is_short, node.args)):
        raise _refused(node, f"a filter takes plain words of up to {LONGEST_ARGUMENT} characters")
    if node.name == "join" and not (node.node and _is_tags(node.node)):
        raise _refused(node, "join goes over client.tags")
    if node.name == "date" and not (isinstance(node.node, nodes.Name) and node.node.name == "due_at"):
        raise _refused(node, "date goes with due_at")
    depth, inner = 1, node.node
    while isinstance(inner, nodes.Filter):
        depth, inner = depth + 1, inner.node
    if depth > MOST_FILTERS:
        raise _refused(node, f"more than {MOST_FILTERS} filters on one value")


def _is_short(node: nodes.Expr) -> bool:
    return isinstance(node, nodes.Const) and len(str(node.value)) <= LONGEST_ARGUMENT


def _is_tags(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Getattr) and node.attr == "tags" and isinstance(node.node, nodes.Name)


def _similar(word: str, known: Iterable[str], prefix: str = "") -> str:
    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _refused(node: nodes.Node, reason: str) -> TemplateSyntaxError:
    return TemplateSyntaxError(reason, node.lineno)


def _compile(source: str, html: bool) -> Template:
    try:
        return (_HTML_ENVIRONMENT if html else _ENVIRONMENT).from_string(source)
    except TemplateSyntaxError as error:
        raise InvalidValue(f"the template, line {error.lineno}: {error.message}", ALLOWED) from None


def _environment(*, html: bool) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, autoescape=html, keep_trailing_newline=True, extensions=()
    )
    environment.globals.clear()
    environment.filters["date"] = DueAt.date
    return environment


_ENVIRONMENT = _environment(html=False)
_HTML_ENVIRONMENT = _environment(html=True)
