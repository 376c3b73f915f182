"""Find the custom fields that a template uses, as `client.fields.NAME`, and those that it needs a value of; pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from skychimp.text import folded

FIELD_PREFIX = "fields."
"""What the name of a custom field begins with where it stands among the attributes of a client."""


class FieldUse(NamedTuple):
    """The name of a custom field in a template, as it is written, and its line."""

    name: str
    line: int


def field_key(node: nodes.Node | None) -> str | None:
    """Return the folded name of the custom field that a node reads, None if it is another node."""
    if not (isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Getattr) and node.node.attr == "fields"):
        return None
    owner = node.node.node
    return folded(node.attr) if isinstance(owner, nodes.Name) and owner.name == "client" else None


def find_fields(tree: nodes.Template) -> Mapping[str, FieldUse]:
    """Return the fields in a template by their folded names."""
    fields: dict[str, FieldUse] = {}
    for node in tree.find_all(nodes.Getattr):
        if (key := field_key(node)) is not None:
            fields.setdefault(key, FieldUse(node.attr, node.lineno))
    return fields


def find_required(tree: nodes.Template) -> frozenset[str]:
    """Return the folded names of the fields without which rendering may fail.

    A field with a default need not have a value, nor one that is only a condition.
    """
    return frozenset(_required(tree, frozenset()))


class FieldLookups(NodeTransformer):
    """Lets templates read custom fields by `getitem`, which reads nothing else in them."""

    def visit_Getattr(self, node: nodes.Getattr) -> nodes.Node:  # noqa: N802
        key = field_key(node)
        if key is None:
            return node
        lookup = nodes.Getitem(node.node, nodes.Const(key, lineno=node.lineno), "load", lineno=node.lineno)
        return lookup.set_environment(node.environment)  # type: ignore[arg-type]


def _required(node: nodes.Node, tested: frozenset[str]) -> Iterator[str]:
    """Yield the fields below a node that must have a value.

    `tested` are those that a condition around the node has found to have one.
    """
    if (key := field_key(node)) is not None:
        if key not in tested:
            yield key
    elif isinstance(node, nodes.Filter) and node.name == "default" and field_key(_without_date(node.node)) is not None:
        return
    elif isinstance(node, nodes.If | nodes.CondExpr):
        yield from _required_of_test(node.test, tested)
        then, others = _branches(node)
        found_otherwise = _found_by(node.test.node) if isinstance(node.test, nodes.Not) else frozenset()
        for child in then:
            yield from _required(child, tested | _found_by(node.test))
        for child in others:
            yield from _required(child, tested | found_otherwise)
    elif isinstance(node, nodes.And):
        yield from _required(node.left, tested)
        yield from _required(node.right, tested | _found_by(node.left))
    elif isinstance(node, nodes.Or):
        yield from _required_of_test(node.left, tested)
        yield from _required(node.right, tested)
    elif isinstance(node, nodes.Not):
        yield from _required_of_test(node.node, tested)
    else:
        for child in node.iter_child_nodes():
            yield from _required(child, tested)


def _required_of_test(test: nodes.Node, tested: frozenset[str]) -> Iterator[str]:
    """Yield what `_required` does for a condition. A field alone is false without a value."""
    if field_key(test) is not None:
        return
    if isinstance(test, nodes.And | nodes.Or):
        yield from _required_of_test(test.left, tested)
        is_and = isinstance(test, nodes.And)
        yield from _required_of_test(test.right, tested | _found_by(test.left) if is_and else tested)
    elif isinstance(test, nodes.Not):
        yield from _required_of_test(test.node, tested)
    else:
        yield from _required(test, tested)


def _found_by(test: nodes.Node) -> frozenset[str]:
    """Return the folded names of the fields that have a value wherever a condition is true."""
    if isinstance(test, nodes.And):
        return _found_by(test.left) | _found_by(test.right)
    key = field_key(test)
    return frozenset() if key is None else frozenset({key})


def _branches(node: nodes.If | nodes.CondExpr) -> tuple[Sequence[nodes.Node], Sequence[nodes.Node]]:
    """Return what is rendered if the condition of a node is true, and what otherwise."""
    if isinstance(node, nodes.If):
        return node.body, (*node.elif_, *node.else_)
    return (node.expr1,), () if node.expr2 is None else (node.expr2,)


def _without_date(node: nodes.Node | None) -> nodes.Node | None:
    return node.node if isinstance(node, nodes.Filter) and node.name == "date" else node
