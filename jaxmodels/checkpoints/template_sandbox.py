"""Running Jinja templates that come with a checkpoint, with a bound on their work and on their output.

Jinja's immutable sandbox keeps a template from the caller's objects, but a line of template can still loop
for hours or ask for terabytes. Here every loop iteration, call, filter and operation is counted against a
budget of work, which a real template does not come near; what asks for much at once (`'a' * 10**9`) is
refused before it is done. The counts depend on the template and its variables alone, not on the machine.

Counting is put into the template when it is parsed: `_Counting` wraps what loops go over and what is
compared, and charges for the bodies of loops, macros and blocks. Operators, calls and filters are counted as
they happen.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from jaxmodels.checkpoints import template_costs as costs
from jaxmodels.checkpoints.template_costs import TooMuch, Work

MOST_SOURCE = 200_000  # the longest published templates have some 40,000 characters
_work: ContextVar[Work] = ContextVar("work")


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """An environment as templates on the Hugging Face hub expect it, in which all work is counted."""

    intercepted_binops = frozenset(costs.OPERATORS)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            finalize=_output,
            optimized=False,  # else constant expressions would be evaluated, uncounted, while compiling
        )
        del self.globals["lipsum"]
        self.globals["namespace"] = _Namespace
        self.filters = {name: _counted_filter(name, one) for name, one in self.filters.items()}
        for name in costs.REFUSED_FILTERS:
            del self.filters[name]
        self.filters |= {_LOOPED: _looped, _WEIGHED: _weighed, _MEASURED: _measured, _CONCAT: _concatenated}
        self.filters[_CHARGE] = _charge
        tests: dict[str, Any] = self.tests
        tests |= {name: _counted_test(tests[name]) for name in costs.COMPARING_TESTS}

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        """Adds a filter, or replaces Jinja's own of this name."""
        self.filters[name] = _counted_filter(name, function)

    def render(self, template: jinja2.Template, variables: dict[str, Any]) -> str:
        """The template's output.

        Raises:
            TooMuch: the template does more work or writes more than it may.
            Exception: whatever else the template does wrong.
        """
        token = _work.set(Work(variables))
        try:
            written = 0
            pieces = []
            for piece in template.generate(variables):
                written += len(piece)
                if written > costs.MOST_TEXT:
                    raise TooMuch(f"it writes more than {costs.MOST_TEXT} characters")
                pieces.append(piece)
            return "".join(pieces)
        finally:
            _work.reset(token)

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """Joins what a macro or a block wrote."""
        pieces = list(pieces)
        _work.get().text(sum(map(len, pieces)))
        return "".join(pieces)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > MOST_SOURCE:
            raise TooMuch(f"it has {len(source)} characters; at most {MOST_SOURCE} are read")
        counting = _Counting().visit(super()._parse(source, name, filename))
        return counting.set_environment(self)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        costs.check_operation(operator, left, right)
        if isinstance(left, str):  # formats what is on the right
            _work.get().weigh(right)
        result = super().call_binop(context, operator, left, right)
        _work.get().measure(result)
        return result

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        work = _work.get()
        if isinstance(__obj, LoopContext):  # a recursive loop, called with what to go over
            args = tuple(_looped(items, 1) for items in args)
        else:
            costs.check_method(work, __obj, args, kwargs)
        result = super().call(__context, __obj, *args, **kwargs)
        work.measure(result)
        return result

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in costs.REFUSED_METHODS and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None
        source, formatter = value.__self__, _Formatter(self)

        def formatted(*args: Any, **kwargs: Any) -> str:
            if value.__name__ == "format_map":
                return formatter.vformat(source, (), *args)
            return formatter.vformat(source, args, kwargs)

        return formatted


class _Formatter(SandboxedFormatter):
    """`str.format`, each of whose fields is counted."""

    def format_field(self, value: Any, format_spec: str) -> Any:
        costs.check_format(format_spec)
        _work.get().weigh(value)
        return super().format_field(value, format_spec)


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`, which marks the assistant's words: renders its body."""

    tags = {"generation"}  # noqa: RUF012 - the type that jinja2 declares

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Namespace(Namespace):
    """A namespace whose text does not show its content, which may be itself."""

    def __repr__(self) -> str:
        return "<namespace>"


# Names that no template can write, for the filters that count.
_LOOPED, _WEIGHED, _MEASURED, _CONCAT, _CHARGE = (
    "(looped)",
    "(weighed)",
    "(measured)",
    "(concatenated)",
    "(charge)",
)


class _Counting(NodeTransformer):
    """Puts counting into a parsed template."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        size = _node_count(node)
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _LOOPED, size)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._charged(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._charged(node)

    def visit_Block(self, node: nodes.Block) -> nodes.Node:
        return self._charged(node)

    def _charged(self, node: Any) -> nodes.Node:
        charge = _filtered(nodes.Const(_node_count(node), lineno=node.lineno), _CHARGE)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(charge, lineno=node.lineno))
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _filtered(node.expr, _WEIGHED)
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, _WEIGHED)
        return node

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, _WEIGHED) if node.ctx == "load" else node  # it may become a key, and be hashed

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, _MEASURED) if isinstance(node.arg, nodes.Slice) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), _CONCAT)


def _filtered(node: Any, name: str, *arguments: int) -> nodes.Filter:
    constants = [nodes.Const(argument, lineno=node.lineno) for argument in arguments]
    return nodes.Filter(node, name, constants, [], None, None, lineno=node.lineno)


def _node_count(node: nodes.Node) -> int:
    return sum(1 for _ in node.find_all(nodes.Node))


def _looped(items: Any, size: int) -> Iterator[Any]:
    work = _work.get()
    for item in items:
        work.spend(1 + size // costs.NODES_PER_WORK)
        yield item


def _charge(size: int) -> None:
    _work.get().spend(1 + size // costs.NODES_PER_WORK)


def _weighed(value: Any) -> Any:
    _work.get().weigh(value)
    return value


def _measured(value: Any) -> Any:
    _work.get().measure(value)
    return value


def _concatenated(values: list[Any]) -> str:
    work = _work.get()
    work.weigh(values)
    text = "".join(map(str, values))
    work.text(len(text))
    return text


@jinja2.pass_context
def _output(context: Context, value: Any) -> str:
    """The text of what a template writes."""
    work = _work.get()
    if not isinstance(value, str):
        work.weigh(value)
        value = str(value)
    work.text(len(value))
    return value


def _counted_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    takes_context = hasattr(function, "jinja_pass_arg")

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        work = _work.get()
        context, values = (args[:1], args[1:]) if takes_context else ((), args)
        values = (_at_hand(values[0]), *values[1:])
        costs.check_filter(work, name, values, kwargs)
        result = _at_hand(function(*context, *values, **kwargs))
        work.measure(result)
        return result

    return counted


def _counted_test(function: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*values: Any) -> Any:
        _work.get().weigh(values)
        return function(*values)

    return counted


def _at_hand(value: Any) -> Any:
    """A list instead of a generator, which would do its work uncounted later."""
    return list(_looped(value, 1)) if isinstance(value, Iterator) else value
