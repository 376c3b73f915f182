"""Templates: a subset of Jinja2 that can neither loop nor grow without bound; pure.

A source's syntax tree is checked before it is compiled: output, attributes, comparisons and boolean logic, if/else, a
`for` over `client.tags`, and a listed set of filters. Client data is never source: not of a template, and not of
Markdown or HTML.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from difflib import get_close_matches
from traceback import walk_tb
from typing import Any, NamedTuple

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from skychimp import markdown
from skychimp.errors import InvalidValue

ATTRIBUTES = {"client": ("email", "name", "comment", "tags"), "mailing": ("id",)}
NAMES = (*ATTRIBUTES, "due_at")
FILTERS = (
    "capitalize", "date", "default", "first", "join", "last", "length", "lower", "title", "trim", "upper", "urlencode",
)  # fmt: skip
LONGEST_ARGUMENT = 100
LARGEST = 1_000_000  # characters, of a source and of what comes of it
DEEPEST = 50
MOST_NODES = 5_000  # of the syntax tree: a thousand expressions or so
ALLOWED = "allowed: {{ client.name }} and the like, if/else, for over client.tags, filters " + ", ".join(FILTERS)

_READABLE = frozenset(name for names in ATTRIBUTES.values() for name in names)
_DATE = re.compile(r"([^%]|%-?[aAbBdHIjmMpSyYZz]|%%)*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Getattr, nodes.Const, nodes.Compare,
    nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.If, nodes.CondExpr, nodes.For, nodes.Filter, nodes.List,
    nodes.Tuple,
)  # fmt: skip


class DueAt:
    """An occurrence's time as a template sees it: `2026-12-01 09:00`, or by `| date(FORMAT)`."""

    def __init__(self, at: datetime) -> None:
        self._at = at
        self._shown = at.strftime("%Y-%m-%d %H:%M")

    def __str__(self) -> str:
        return self._shown

    def date(self, form: str) -> str:
        return self._at.strftime(form)


class Text:
    """A compiled template over `values`, which its owner changes from letter to letter; `field` is its name in errors.

    Raises InvalidValue where the source is more than the subset.
    """

    def __init__(self, source: str, field: str, values: dict[str, Any], *, html: bool = False) -> None:
        self._template, self.is_constant = _compiled(source, field, _HTML_ENVIRONMENT if html else _ENVIRONMENT)
        self._render = self._template.root_render_func
        # One context for all letters: to make one for each would cost as much as the rest of a small letter.
        self._context = self._template.new_context(values, shared=True)
        self._field = field
        self._is_html = html

    def render(self) -> str:
        """The text for the values as they are now. Raises InvalidValue."""
        return "".join(self.pieces())

    def pieces(self) -> list[str]:
        """The same in pieces, of which those that are the same for all are the same objects. Raises InvalidValue."""
        try:
            pieces = list(self._render(self._context))
        except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise InvalidValue(f"the {self._field}, line {self._line(error)}: {error}") from None
        if sum(map(len, pieces)) > LARGEST:
            raise InvalidValue(f"the {self._field} came to more than {LARGEST} characters")
        # What HTML has escaped is a Markup, which escapes whatever is added to it.
        return list(map(str, pieces)) if self._is_html else pieces

    def _line(self, error: Exception) -> int:
        for frame, line in walk_tb(error.__traceback__):
            if frame.f_code is self._render.__code__:
                return self._template.get_corresponding_lineno(line)
        return 1


def from_markdown(source: str) -> str:
    """The HTML template that a Markdown template stands for; raw HTML in it is shown, not obeyed.

    The expressions are carried through as plain words that Markdown leaves alone, and put back. Every other brace
    becomes an entity: what Markdown unescapes must not turn into an expression.
    """
    # No text holds its own hash, so that nothing in it can be taken for one of the words.
    mark = "x" + hashlib.blake2b(source.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    expressions: list[_Expression] = []

    def carried(piece: "str | _Expression") -> str:
        if isinstance(piece, str):
            return piece
        expressions.append(piece)
        return f"{mark}x{len(expressions) - 1}x"

    def put_back(html: str, *, link: bool = False) -> str:
        return re.sub(rf"{mark}x(\d+)x", lambda word: expressions[int(word[1])].source(link=link), html)

    def without_paragraph(found: re.Match[str]) -> str:
        return found[0] if expressions[int(found[2])].is_output else found[1]

    html = (
        markdown.renderer(only_safe_links=False).render("".join(map(carried, _pieces(source)))).replace("{", "&#123;")
    )
    html = re.sub(rf"<p>({mark}x(\d+)x)</p>", without_paragraph, html)
    html = re.sub(r'(?:href|src)="[^"]*"', lambda found: put_back(found[0], link=True), html)
    return put_back(html)


class _Expression(NamedTuple):
    """What stands between `{{` and `}}`, or between `{%` and `%}`; white space around it is already cut as `-` says."""

    inner: str
    is_output: bool

    def source(self, *, link: bool) -> str:
        """It as template source; in a link its value is quoted, so that client data can't be a link of its own."""
        if not self.is_output:
            return f"{{%{self.inner}%}}"
        return f"{{{{ ({self.inner}) | urlencode }}}}" if link else f"{{{{{self.inner}}}}}"


def _pieces(source: str) -> Iterator[str | _Expression]:
    """The source cut into plain text and expressions, without its comments; raw text is plain."""
    inner: str | None = None
    for _, kind, value in _ENVIRONMENT.lex(source):
        if kind in ("variable_begin", "block_begin"):
            inner = ""
        elif kind in ("variable_end", "block_end") and inner is not None:
            yield _Expression(inner, is_output=kind == "variable_end")
            inner = None
        elif inner is not None:
            inner += value
        elif kind == "data":
            yield value


def _compiled(source: str, field: str, environment: "_Environment") -> tuple[Template, bool]:
    """The template, once it is checked, and whether it is plain text only."""
    if len(source) > LARGEST:
        raise InvalidValue(f"the {field} is longer than {LARGEST} characters")
    if _SURROGATE.search(source):
        raise InvalidValue(f"the {field} holds half a character (a lone surrogate)", "is it written in UTF-8?")
    try:
        tree = environment.parse(source)
        _check(tree, frozenset(), DEEPEST)
        kinds = list(map(type, tree.find_all(nodes.Node)))
        if len(kinds) > MOST_NODES:
            raise InvalidValue(f"the {field} has too many expressions")
        return environment.from_string(tree), {nodes.Output, nodes.TemplateData}.issuperset(kinds)
    except TemplateSyntaxError as error:
        raise InvalidValue(f"the {field}, line {error.lineno}: {error.message}", ALLOWED) from None
    except (RecursionError, ValueError):  # of parentheses, and of integers with thousands of digits
        raise InvalidValue(f"the {field} has an expression that is too deep, or a number that is too long") from None


def _check(node: nodes.Node, loop_names: frozenset[str], depth: int) -> None:
    if not depth:
        raise _refused(node, "this is nested too deeply")
    if not isinstance(node, _NODES):
        raise _refused(node, f"{type(node).__name__.lower()} is not allowed")
    if isinstance(node, nodes.Getattr):
        _check_attribute(node)
        return
    if isinstance(node, nodes.Name):
        _check_name(node, loop_names)
    elif isinstance(node, nodes.Filter):
        _check_filter(node)
    elif isinstance(node, nodes.For):
        for child in node.else_:
            _check(child, loop_names, depth - 1)
        loop_names |= {_loop_name(node, loop_names)}
    for child in node.iter_child_nodes(exclude=("else_",) if isinstance(node, nodes.For) else None):
        _check(child, loop_names, depth - 1)


def _check_name(node: nodes.Name, loop_names: frozenset[str]) -> None:
    if node.name in loop_names:
        return
    if node.name not in NAMES:
        raise _refused(node, f"there is no {node.name}{_similar(node.name, NAMES)}")
    if node.name in ATTRIBUTES:
        raise _refused(node, f"{node.name} is no text: write {node.name}.{ATTRIBUTES[node.name][0]} or the like")


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
    if node.name == "join" and not _is_tags(node.node):
        raise _refused(node, "join goes over client.tags")
    if node.name == "date" and not (isinstance(node.node, nodes.Name) and node.node.name == "due_at"):
        raise _refused(node, "date goes with due_at")
    if node.name == "date" and not (len(node.args) == 1 and _is_date_format(node.args[0])):
        raise _refused(node, "date takes a format, as '%d.%m.%Y %H:%M' (also %-d %-m %y %j %a %A %b %B %I %p %Z)")


def _loop_name(node: nodes.For, loop_names: frozenset[str]) -> str:
    if loop_names or node.recursive or not isinstance(node.target, nodes.Name) or not _is_tags(node.iter):
        raise _refused(node, "a for goes over client.tags, once, and not inside another")
    if node.target.name in NAMES:
        raise _refused(node, f"{node.target.name} means something else already; write: for tag in client.tags")
    return node.target.name


def _is_short(node: nodes.Expr) -> bool:
    return isinstance(node, nodes.Const) and len(str(node.value)) <= LONGEST_ARGUMENT


def _is_date_format(node: nodes.Expr) -> bool:
    return isinstance(node, nodes.Const) and isinstance(node.value, str) and _DATE.fullmatch(node.value) is not None


def _is_tags(node: nodes.Node | None) -> bool:
    return isinstance(node, nodes.Getattr) and node.attr == "tags"


def _similar(word: str, known: Iterable[str], prefix: str = "") -> str:
    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _refused(node: nodes.Node, reason: str) -> TemplateSyntaxError:
    line = next((each.lineno for each in (node, *node.find_all(nodes.Node)) if each.lineno), 1)
    return TemplateSyntaxError(reason, line)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox. The few attributes that the check lets through are read without its half a microsecond of doubt."""

    def getattr(self, obj: object, attribute: str) -> object:
        return getattr(obj, attribute) if attribute in _READABLE else super().getattr(obj, attribute)


def _shown(value: object) -> object:
    return ", ".join(value) if isinstance(value, list | tuple) else value


def _environment(*, html: bool) -> _Environment:
    environment = _Environment(
        undefined=StrictUndefined, autoescape=html, keep_trailing_newline=True, extensions=(), finalize=_shown
    )
    environment.globals.clear()
    environment.filters["date"] = DueAt.date
    return environment


_ENVIRONMENT = _environment(html=False)
_HTML_ENVIRONMENT = _environment(html=True)
