"""Limit the work of rendering a template: the characters that go through filters, and the steps of loops; pure.

A unit of work takes about 25 ns. Each template of an email (subject, text, HTML) has MAX_WORK units for each client, so
the filters and loops of an email take less than 0.1 s, however long the client's comment is and however many tags the
client has. The syntax tree is changed before it is compiled, so that loops, lists and searches are counted before they
start. Templates without them cost nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jinja2 import TemplateRuntimeError, nodes, pass_context
from jinja2.filters import FILTERS
from jinja2.runtime import Context

from skychimp.translation import tr

MAX_WORK = 500_000
"""Units of work for one template and one client."""

_FILTER_WEIGHTS = {"capitalize": 1, "join": 1, "lower": 1, "title": 5, "trim": 1, "upper": 1, "urlencode": 1}
"""Units for each character that goes into a filter or comes out of it. Filters that take no time are left out."""
_NODE_WORK = 5
"""Units for each node of the syntax tree in one step of a loop."""
_VALUE_WORK = 20
"""Units for a value that is no text."""
_MAX_UNCOUNTED_LENGTH = 100
"""Characters of a constant that is searched without being counted."""
_READ_SPEED, _COMPARE_SPEED = 4, 500
"""Characters of a text, and pairs of characters of two texts, that `in` compares in one unit.

Python may compare each character with each one of a short text. A long text is searched in linear time.
"""
_MAX_COMPARED_LENGTH = 1_000
_LOOP, _LIST, _SEARCH = "counted loop", "counted list", "counted search"


class TooMuchWork(TemplateRuntimeError):
    """A template has used up its work for one client."""


class CountingContext(Context):
    """The values of a template, and how much work it may still do. Set `work_left` before each rendering."""

    work_left = MAX_WORK

    def charge(self, work: int) -> None:
        """Subtract units of work. Raises TooMuchWork if none are left."""
        self.work_left -= work
        if self.work_left < 0:
            raise TooMuchWork(tr("the filters and loops take too long"))


def count_work(tree: nodes.Template) -> None:
    """Change a checked syntax tree, so that its loops, lists and searches are counted."""
    for loop in tree.find_all(nodes.For):
        size = sum(1 for part in (*loop.body, loop.test) if part for _ in (part, *part.find_all(nodes.Node)))
        loop.iter = _counted(loop.iter, _LOOP, nodes.Const(size))
    for operand in tree.find_all(nodes.Operand):
        if operand.op in ("in", "notin") and not (_is_constant(operand.expr) and _is_short(operand.expr)):
            operand.expr = _counted(operand.expr, _SEARCH)
    _count_lists(tree)


def counting_filters() -> dict[str, Callable[..., Any]]:
    """Return the filters of a template environment that count their work, by name."""
    filters = {name: _counting(FILTERS[name], weight) for name, weight in _FILTER_WEIGHTS.items()}
    return filters | {_LOOP: _start_loop, _LIST: _make_list, _SEARCH: _search}


def _counted(node: nodes.Node, name: str, *arguments: nodes.Expr) -> nodes.Filter:
    """Return a node that applies one of our own filters to another node."""
    counted = nodes.Filter(node, name, list(arguments), [], None, None, lineno=node.lineno)
    return counted.set_environment(node.environment)  # type: ignore[return-value, arg-type]


def _count_lists(node: nodes.Node) -> None:
    """Count the lists and tuples below a node."""
    for name, value in node.iter_fields():
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, nodes.Node):
                _count_lists(child)
        if isinstance(value, list):
            setattr(node, name, list(map(_counted_list, value)))
        else:
            setattr(node, name, _counted_list(value))


def _counted_list(value: object) -> object:
    """Return a field of a node, which is counted if it is a list or tuple of the template."""
    return _counted(value, _LIST) if isinstance(value, nodes.List | nodes.Tuple) and not _is_constant(value) else value


def _is_constant(node: nodes.Node) -> bool:
    """Return whether a node is a constant or a list of constants, whose size the source limits."""
    if isinstance(node, nodes.List | nodes.Tuple):
        return all(isinstance(item, nodes.Const) for item in node.items)
    return isinstance(node, nodes.Const)


def _is_short(node: nodes.Node) -> bool:
    """Return whether a constant is no long text. Each item of a list is compared only with texts of its own length."""
    value = node.value if isinstance(node, nodes.Const) else None
    return not isinstance(value, str) or len(value) <= _MAX_UNCOUNTED_LENGTH


def _counting(function: Callable[..., Any], weight: int) -> Callable[..., Any]:
    """Return a filter that charges for the length of its input and of its output."""
    takes_context = hasattr(function, "jinja_pass_arg")

    @pass_context
    def apply(context: CountingContext, value: object, *arguments: object) -> object:
        context.charge(weight * _length(value))
        result = function(context.eval_ctx, value, *arguments) if takes_context else function(value, *arguments)
        context.charge(weight * _length(result))
        return result

    return apply


@pass_context
def _start_loop(context: CountingContext, tags: Sequence[str], size: int) -> Sequence[str]:
    context.charge(len(tags) * size * _NODE_WORK)
    return tags


@pass_context
def _make_list(context: CountingContext, items: Sequence[object]) -> Sequence[object]:
    context.charge(_length(items))
    return items


@pass_context
def _search(context: CountingContext, searched: object) -> object:
    context.charge(_length(searched) // _READ_SPEED)
    return _SearchedText.in_context(searched, context) if isinstance(searched, str) else searched


class _SearchedText(str):
    """A text that charges for what is searched in it."""

    __slots__ = ("_context",)
    _context: CountingContext

    @classmethod
    def in_context(cls, text: str, context: CountingContext) -> "_SearchedText":
        searched = cls(text)
        searched._context = context
        return searched

    def __contains__(self, part: object) -> bool:
        if isinstance(part, str):
            self._context.charge(len(self) * min(len(part), _MAX_COMPARED_LENGTH) // _COMPARE_SPEED)
        return super().__contains__(part)  # type: ignore[operator]


def _length(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list | tuple):
        return _VALUE_WORK + sum(map(_length, value))
    return _VALUE_WORK
