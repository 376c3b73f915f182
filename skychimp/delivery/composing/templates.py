"""Render templates in a subset of Jinja2 that cannot run arbitrary code, loop forever or grow without limit; pure.

The syntax tree of a template is checked before it is compiled. Allowed are output, attributes, comparisons, boolean
logic, if/else, a `for` loop over `client.tags`, a client's custom fields (see field_uses), and the filters listed
below. The work of rendering is limited (see work_budget). A client's data is never used as the source of a template, of
Markdown or of HTML.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from itertools import islice
from operator import attrgetter
from traceback import walk_tb
from typing import Any, NamedTuple, cast

from jinja2 import Environment, StrictUndefined, Template, TemplateError, TemplateSyntaxError, nodes, pass_context
from jinja2.lexer import Lexer
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer
from markupsafe import escape

from skychimp.delivery.composing.extras import POSTAL_ADDRESS, UNSUBSCRIBE_URL
from skychimp.delivery.composing.field_uses import (
    FIELD_PREFIX,
    FieldLookups,
    FieldUse,
    field_key,
    find_fields,
    find_required,
)
from skychimp.delivery.composing.field_values import FieldValues, format_date
from skychimp.delivery.composing.work_budget import (
    MAX_WORK,
    CountingContext,
    TooMuchWork,
    count_work,
    counting_filters,
)
from skychimp.errors import InvalidValue
from skychimp.text import did_you_mean
from skychimp.translation import tr

ATTRIBUTES = {"client": ("email", "name", "comment", "tags", "fields"), "mailing": ("id",)}
TEXTS = ("email", "name", "comment")
"""The attributes of a client that are texts."""
VARIABLES = (*ATTRIBUTES, "due_at", UNSUBSCRIBE_URL, POSTAL_ADDRESS)
FILTERS = (
    "capitalize", "date", "default", "first", "join", "last", "length", "lower", "title", "trim", "upper", "urlencode",
)  # fmt: skip
_LONG_FIELDS = ("body", "HTML", "layout")
"""The templates of more than a line. Only they can show the link for unsubscribing and the postal address."""

MAX_ARGUMENT_LENGTH = 100
MAX_LENGTH = 1_000_000
"""Characters of a template, and of a rendered text."""
MAX_DEPTH = 50
MAX_NODES = 5_000
"""Nodes of the syntax tree, which is about a thousand expressions."""
MAX_TOKENS = 8 * MAX_NODES
"""Words and signs in all expressions and comments. They are counted before the tree is made, which takes longer."""

_HINT = tr('run "skychimp help templates"')
_WORK_HINT = "use fewer filters on client.comment, and none in a loop"
_READABLE = frozenset(name for names in ATTRIBUTES.values() for name in names)
_DATE_FORMAT = re.compile(r"([^%]|%-?[aAbBdHIjmMpSyYZz]|%%)*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LONG_NUMBER = re.compile(r"[0-9_]{4301}")  # Python's own limit is 4,300 digits
_BEGINS = {
    r"(?P<comment_begin>\{\#": r"(?=[-+]?[^\w}\\-](?:(?!\{\#).)*?\#\}|[^{}]*?\#\})",
    r"(?P<block_begin>\{%": r"(?![0-9][0-9A-Fa-f]|[A-Fa-f][0-9])",
}
"""Parts of Jinja2's regular expression for the beginning of a tag, and what must follow in ours.

A comment is closed. Where it has a brace, no name follows `{#`, as in `@media print{#menu{color:red}}`. A word follows
`{%`, and not a percent-encoded byte as in `?filter={%22city%22:1}`.
"""
_NO_TOKENS = frozenset({"data", "whitespace"})
_DATE_WORK = 100  # units of work_budget
_MAX_REASON_LENGTH = 200
_PIECES_AT_ONCE = 64
_ALLOWED_NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Getattr, nodes.Const, nodes.Compare,
    nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.If, nodes.CondExpr, nodes.For, nodes.Filter, nodes.List,
    nodes.Tuple,
)  # fmt: skip


class DueAt:
    """The due time of an occurrence as templates see it: `2026-12-01 09:00`, or as `| date(FORMAT)` writes it."""

    def __init__(self, at: datetime) -> None:
        self._at = at
        self._shown = at.strftime("%Y-%m-%d %H:%M")

    def __str__(self) -> str:
        return self._shown

    def date(self, date_format: str) -> str:
        """Return the time in a format of strftime."""
        return self._at.strftime(date_format)


class TextTemplate:
    """A compiled template. The caller changes `values` for each email before it is rendered.

    `field` names the template in errors: subject, body or HTML. `max_length` is how many characters it may have after
    rendering, `postal_address` the text of that variable. `has_link` says whether `unsubscribe_url` will have a value.
    So `{% if %}` with these two variables is decided here, once. Raises InvalidValue for a source outside the subset.
    """

    def __init__(
        self,
        source: str,
        field: str,
        values: dict[str, Any],
        *,
        html: bool = False,
        max_length: int = MAX_LENGTH,
        postal_address: str = "",
        has_link: bool = False,
    ) -> None:
        environment = _HTML_ENVIRONMENT if html else _ENVIRONMENT
        compiled = _compiled(source, field, environment, postal_address, has_link=has_link)
        self.variables = compiled.variables
        self._template, kinds, self._segments = compiled.template, compiled.kinds, compiled.segments
        self.fields = compiled.fields
        self.required_fields = compiled.required_fields
        places = self._segments.places if self._segments else ()
        self._places: list[tuple[int, Callable[[Any], str]]] = [(place, text_reader(name)) for place, name in places]
        self._values = values
        self.is_constant = {nodes.Output, nodes.TemplateData}.issuperset(kinds)
        self._may_be_long = nodes.For in kinds or len(kinds) > 2 * _PIECES_AT_ONCE
        self._render = self._template.root_render_func
        # One context for all emails: creating one for each would take as long as the rest of a small email.
        self._context = cast("CountingContext", self._template.new_context(values, shared=True))
        self._field = field
        self._max_length = max_length
        self._is_html = html

    def render(self) -> str:
        """Return the text for the current values. Raises InvalidValue."""
        return "".join(self.pieces())

    def pieces(self) -> list[str]:
        """Return the text in pieces. The constant ones are the same objects each time. Raises InvalidValue."""
        if self._segments is not None:
            pieces = self._filled_in(self._segments)
            self._require_length(sum(map(len, pieces)))
            return pieces
        self._context.work_left = MAX_WORK
        try:
            rendering = self._render(self._context)
            pieces = self._in_batches(rendering) if self._may_be_long else list(rendering)
        except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
            hint = _WORK_HINT if isinstance(error, TooMuchWork) else None
            raise InvalidValue(
                tr("the {field}, line {line}: {cut}", field=self._field, line=self._line(error), cut=_cut(str(error))),
                hint,
            ) from None
        self._require_length(sum(map(len, pieces)))
        # Escaped values are Markup objects, which would escape again whatever is appended to them.
        return list(map(str, pieces)) if self._is_html else pieces

    @property
    def has_only_gaps(self) -> bool:
        """Return whether it is text with a client's texts in between, and does not end with one of these."""
        segments = self._segments
        return segments is not None and not (segments.places and segments.places[-1][0] == len(segments.texts) - 1)

    @property
    def gaps(self) -> set[str]:
        """The names of the client's texts in between, such as `name` or `fields.city`."""
        return {name for _, name in self._segments.places} if self._segments else set()

    def _filled_in(self, segments: "_Segments") -> list[str]:
        """Return the text with the client's values, without Jinja2, which takes several times as long."""
        pieces, client = segments.texts.copy(), self._values.get("client")
        for place, read in self._places:
            value = read(client)
            pieces[place] = str(escape(value)) if self._is_html else value
        return pieces

    def _in_batches(self, rendering: Iterator[str]) -> list[str]:
        """Return the pieces of a text, and stop soon after it has become too long. Raises InvalidValue."""
        pieces: list[str] = []
        length = 0
        while batch := list(islice(rendering, _PIECES_AT_ONCE)):
            pieces += batch
            length += sum(map(len, batch))
            self._require_length(length)
        return pieces

    def _require_length(self, length: int) -> None:
        if length > self._max_length:
            raise InvalidValue(
                tr(
                    "the {field} has more than {max_length:,} characters after rendering",
                    field=self._field,
                    max_length=self._max_length,
                )
            )

    def _line(self, error: Exception) -> int:
        for frame, line in walk_tb(error.__traceback__):
            if frame.f_code is self._render.__code__:
                return self._template.get_corresponding_lineno(line)
        return 1


def text_reader(name: str) -> Callable[[Any], str]:
    """Return what reads a text from a client: an attribute, or with FIELD_PREFIX a custom field."""
    if not name.startswith(FIELD_PREFIX):
        return cast("Callable[[Any], str]", attrgetter(name))
    key = name.removeprefix(FIELD_PREFIX)
    return lambda client: cast("str", client.fields.text(key))


def texts_reader(names: Sequence[str]) -> Callable[[Any], Sequence[str]]:
    """Return what reads texts as `text_reader` does, and then the address."""
    if not any(name.startswith(FIELD_PREFIX) for name in names):
        return attrgetter(*names, "email")  # with the address, as it returns a tuple only for several names
    readers = list(map(text_reader, (*names, "email")))
    return lambda client: [read(client) for read in readers]


class Expression(NamedTuple):
    """The inside of `{{ }}` or `{% %}`, after white space control by `-` was applied."""

    inner: str
    is_output: bool

    def source(self, *, link: bool) -> str:
        """Return the expression as template source. In a link, data is URL-encoded: it must not be a link."""
        if not self.is_output:
            return f"{{%{self.inner}%}}"
        link = link and self.inner.strip() != UNSUBSCRIBE_URL  # which is a link itself
        return f"{{{{ ({self.inner}) | urlencode }}}}" if link else f"{{{{{self.inner}}}}}"


def split_template(source: str) -> Iterator[str | Expression]:
    """Split a template into text and expressions, without comments. Raw blocks are text."""
    inner: str | None = None
    for _, kind, value in _ENVIRONMENT.lex(source):
        if kind in ("variable_begin", "block_begin"):
            inner = ""
        elif kind in ("variable_end", "block_end") and inner is not None:
            yield Expression(inner, is_output=kind == "variable_end")
            inner = None
        elif inner is not None:
            inner += value
        elif kind == "data":
            yield value


class _Segments(NamedTuple):
    """A template that is nothing but text and a client's values. At each place belongs what has this name."""

    texts: list[str]
    places: list[tuple[int, str]]


def _segments(tree: nodes.Template) -> _Segments | None:
    """Split a checked template into its text and a client's values, or return None if it has anything else."""
    segments = _Segments([], [])
    for output in tree.body:
        for node in output.nodes if isinstance(output, nodes.Output) else (output,):
            if isinstance(node, nodes.TemplateData):
                segments.texts.append(node.data)
            elif (key := field_key(node)) is not None:
                segments.places.append((len(segments.texts), FIELD_PREFIX + key))
                segments.texts.append("")
            elif isinstance(node, nodes.Getattr) and node.attr in TEXTS:
                segments.places.append((len(segments.texts), node.attr))
                segments.texts.append("")
            elif isinstance(node, nodes.Name) and node.name == UNSUBSCRIBE_URL:
                segments.places.append((len(segments.texts), UNSUBSCRIBE_URL))
                segments.texts.append("")
            else:
                return None
    return segments


class _Compiled(NamedTuple):
    """A template with the types of its nodes, its segments, and the variables and custom fields in it.

    `fields` has the names as they are written and their first lines, by their folded names. Those in `required_fields`
    have no default. Both also have what is shown only with a link for unsubscribing, or with a postal address.
    """

    template: Template
    kinds: list[type]
    segments: _Segments | None
    variables: frozenset[str]
    fields: Mapping[str, FieldUse]
    required_fields: frozenset[str]


def _compiled(
    source: str, field: str, environment: "_Environment", postal_address: str, *, has_link: bool
) -> _Compiled:
    """Check and compile a template. Raises InvalidValue."""
    if len(source) > MAX_LENGTH:
        raise InvalidValue(
            tr("the {field} is longer than {max_length:,} characters", field=field, max_length=MAX_LENGTH)
        )
    if _SURROGATE.search(source):
        raise InvalidValue(
            tr("the {field} contains invalid Unicode (a lone surrogate)", field=field), tr("save it as UTF-8")
        )
    if _LONG_NUMBER.search(source) and "{" in source:  # Jinja2 needs 300 bytes of memory for each digit
        raise InvalidValue(tr("the {field} has a number that is too long", field=field))
    try:
        if _has_too_many_tokens(source):
            raise InvalidValue(tr("the {field} has too many expressions", field=field))
        tree = environment.parse(source)
        _check(tree, frozenset(), MAX_DEPTH)
        if field not in _LONG_FIELDS:
            _check_line(tree, field)
        fields = find_fields(tree)
        required = find_required(tree) if fields else frozenset()
        tree = _Decided({UNSUBSCRIBE_URL: has_link, POSTAL_ADDRESS: bool(postal_address)}).visit(tree)
        variables = frozenset(name.name for name in tree.find_all(nodes.Name))
        if POSTAL_ADDRESS in variables:
            tree = _Constant(POSTAL_ADDRESS, postal_address, is_html=environment.autoescape is True).visit(tree)
        kinds = list(map(type, tree.find_all(nodes.Node)))
        if len(kinds) > MAX_NODES:
            raise InvalidValue(tr("the {field} has too many expressions", field=field))
        segments = _segments(tree)
        if fields:
            tree = FieldLookups().visit(tree)
        count_work(tree)
        return _Compiled(environment.from_string(tree), kinds, segments, variables, fields, required)
    except TemplateSyntaxError as error:
        raise InvalidValue(
            tr("the {field}, line {lineno}: {cut}", field=field, lineno=error.lineno, cut=_cut(error.message or "")),
            _HINT,
        ) from None
    except (RecursionError, ValueError):  # thousands of parentheses, or integers of thousands of digits
        raise InvalidValue(
            tr("the {field} has an expression that is nested too deeply, or a number that is too long", field=field)
        ) from None


def _has_too_many_tokens(source: str) -> bool:
    if len(source) <= MAX_TOKENS:
        return False
    tokens = (kind for _, kind, _ in _ENVIRONMENT.lex(source) if kind not in _NO_TOKENS)
    return next(islice(tokens, MAX_TOKENS, None), None) is not None


# Checks


def _check(node: nodes.Node, loop_names: frozenset[str], depth: int) -> None:
    if not depth:
        raise _syntax_error(node, tr("the template is nested too deeply"))
    if not isinstance(node, _ALLOWED_NODES):
        raise _syntax_error(node, tr("{lower} is not allowed", lower=type(node).__name__.lower()))
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
    if node.name not in VARIABLES:
        raise _syntax_error(
            node,
            tr("unknown variable {name}{suggestion}", name=node.name, suggestion=_suggestion(node.name, VARIABLES)),
        )
    if node.name in ATTRIBUTES:
        example = f"{node.name}.{ATTRIBUTES[node.name][0]}"
        raise _syntax_error(
            node,
            tr("{name} is not a text; use one of its attributes such as {example}", name=node.name, example=example),
        )


def _check_line(tree: nodes.Template, field: str) -> None:
    for node in tree.find_all(nodes.Name):
        if node.name in (UNSUBSCRIBE_URL, POSTAL_ADDRESS):
            raise _syntax_error(
                node, tr("{name} cannot be used in the {field}, only in the body", name=node.name, field=field)
            )


def _check_attribute(node: nodes.Getattr) -> None:
    if field_key(node) is not None:
        return
    if isinstance(node.node, nodes.Name) and (node.node.name, node.attr) == ("client", "fields"):
        raise _syntax_error(node, tr("client.fields needs the name of a field, such as client.fields.city"))
    owner = node.node.name if isinstance(node.node, nodes.Name) else ""
    attributes = ATTRIBUTES.get(owner, ())
    if node.attr not in attributes:
        raise _syntax_error(
            node,
            tr(
                "unknown attribute {owner}.{attr}{suggestion}",
                owner=owner,
                attr=node.attr,
                suggestion=_suggestion(node.attr, attributes),
            ),
        )


def _check_filter(node: nodes.Filter) -> None:
    if node.name not in FILTERS:
        raise _syntax_error(
            node, tr("unknown filter {name}{suggestion}", name=node.name, suggestion=_suggestion(node.name, FILTERS))
        )
    if node.kwargs or node.dyn_args or node.dyn_kwargs or not all(map(_is_short, node.args)):
        raise _syntax_error(
            node,
            tr(
                "filter arguments must be constants of at most {max_argument_length} characters",
                max_argument_length=MAX_ARGUMENT_LENGTH,
            ),
        )
    if node.name == "join" and not _is_tags(node.node):
        raise _syntax_error(node, tr("join must be used with client.tags"))
    if node.name == "date" and not _is_date(node.node):
        raise _syntax_error(node, tr("date must be used with due_at or a field such as client.fields.birthday"))
    if node.name == "date" and not (len(node.args) == 1 and _is_date_format(node.args[0])):
        raise _syntax_error(
            node, tr("date needs a format such as '%d.%m.%Y %H:%M' (also %-d %-m %y %j %a %A %b %B %I %p %Z)")
        )


def _loop_name(node: nodes.For, loop_names: frozenset[str]) -> str:
    if loop_names or node.recursive or not isinstance(node.target, nodes.Name) or not _is_tags(node.iter):
        raise _syntax_error(node, tr("a for loop must be over client.tags, and not inside another one"))
    if node.target.name in VARIABLES:
        raise _syntax_error(
            node, tr("{name} is already a variable; use another name such as tag", name=node.target.name)
        )
    return node.target.name


def _is_short(node: nodes.Expr) -> bool:
    return isinstance(node, nodes.Const) and len(str(node.value)) <= MAX_ARGUMENT_LENGTH


def _is_date_format(node: nodes.Expr) -> bool:
    return (
        isinstance(node, nodes.Const) and isinstance(node.value, str) and _DATE_FORMAT.fullmatch(node.value) is not None
    )


def _is_tags(node: nodes.Node | None) -> bool:
    return isinstance(node, nodes.Getattr) and node.attr == "tags" and field_key(node) is None


def _is_date(node: nodes.Node | None) -> bool:
    """Return whether a node can be a date: the due time, or a field, also with a default."""
    if isinstance(node, nodes.Filter) and node.name == "default":
        node = node.node
    return (isinstance(node, nodes.Name) and node.name == "due_at") or field_key(node) is not None


def _suggestion(word: str, known: Iterable[str]) -> str:
    suggestion = did_you_mean(word, known)
    return f"; {suggestion}" if suggestion else ""


def _cut(reason: str) -> str:
    """Return a reason without most of the long name that it may contain."""
    return reason if len(reason) <= _MAX_REASON_LENGTH else reason[:_MAX_REASON_LENGTH] + "…"


def _syntax_error(node: nodes.Node, reason: str) -> TemplateSyntaxError:
    line = next((each.lineno for each in (node, *node.find_all(nodes.Node)) if each.lineno), 1)
    return TemplateSyntaxError(reason, line)


class _Constant(NodeTransformer):
    """Replaces a variable by its text, so that it becomes a part of the template."""

    def __init__(self, name: str, text: str, *, is_html: bool) -> None:
        self._name, self._text, self._is_html = name, text, is_html

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802
        node.nodes = [self._shown(child) if self._is_it(child) else self.visit(child) for child in node.nodes]
        return node

    def visit_Name(self, node: nodes.Name) -> nodes.Node:  # noqa: N802
        return nodes.Const(self._text, lineno=node.lineno) if self._is_it(node) else node

    def _is_it(self, node: nodes.Node) -> bool:
        return isinstance(node, nodes.Name) and node.name == self._name

    def _shown(self, node: nodes.Node) -> nodes.TemplateData:
        text = str(escape(self._text)) if self._is_html else self._text
        return nodes.TemplateData(text, lineno=node.lineno)


class _Decided(NodeTransformer):
    """Replaces each `{% if %}` by the branch that is shown, where that depends only on variables that are known."""

    def __init__(self, known: Mapping[str, bool]) -> None:
        self._known = known

    def visit_If(self, node: nodes.If) -> nodes.Node | list[nodes.Node]:  # noqa: N802
        is_true = self._truth(node.test)
        if is_true:
            return self._visit_all(node.body)
        if is_true is None:
            node.body, node.else_ = self._visit_all(node.body), self._visit_all(node.else_)
            for other in node.elif_:
                other.body = self._visit_all(other.body)
            return node
        if not node.elif_:
            return self._visit_all(node.else_)
        first, *others = node.elif_
        return self.visit_If(nodes.If(first.test, first.body, others, node.else_, lineno=first.lineno))

    def _visit_all(self, children: list[nodes.Node]) -> list[nodes.Node]:
        return [each for child in children for each in self.visit_list(child)]

    def _truth(self, node: nodes.Node) -> bool | None:
        """Return whether a condition is true, or None if that depends on the client."""
        if isinstance(node, nodes.Name):
            return self._known.get(node.name)
        if isinstance(node, nodes.Not):
            truth = self._truth(node.node)
            return None if truth is None else not truth
        if not isinstance(node, nodes.And | nodes.Or):
            return None
        left, right = self._truth(node.left), self._truth(node.right)
        decisive = isinstance(node, nodes.Or)
        if decisive in (left, right):
            return decisive
        return None if left is None or right is None else not decisive


class _Lexer(Lexer):
    """Reads a template as Jinja2 does, but `{#` and `{%` in CSS, headings and URLs as text."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        first, *others = self.rules["root"]
        pattern = first.pattern.pattern
        for begin, condition in _BEGINS.items():
            pattern = pattern.replace(begin, begin + condition)
        self.rules["root"] = [first._replace(pattern=re.compile(pattern, first.pattern.flags)), *others]


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox. It reads the few allowed attributes without its own checks, which take half a microsecond each."""

    @cached_property
    def lexer(self) -> Lexer:
        return _Lexer(self)

    def getattr(self, obj: object, attribute: str) -> object:
        return getattr(obj, attribute) if attribute in _READABLE else super().getattr(obj, attribute)

    def getitem(self, obj: object, argument: Any) -> object:
        return obj.value(argument) if isinstance(obj, FieldValues) else super().getitem(obj, argument)


@pass_context
def _date(context: CountingContext, value: object, date_format: str) -> object:
    context.charge(_DATE_WORK)
    return value.date(date_format) if isinstance(value, DueAt) else format_date(value, date_format)


def _joined(value: object) -> object:
    """Return a list such as client.tags as text. Other values stay as they are."""
    return ", ".join(value) if isinstance(value, list | tuple) else value


def _environment(*, html: bool) -> _Environment:
    environment = _Environment(
        undefined=StrictUndefined, autoescape=html, keep_trailing_newline=True, extensions=(), finalize=_joined
    )
    environment.context_class = CountingContext
    environment.globals.clear()
    environment.filters |= counting_filters() | {"date": _date}
    return environment


_ENVIRONMENT = _environment(html=False)
_HTML_ENVIRONMENT = _environment(html=True)
