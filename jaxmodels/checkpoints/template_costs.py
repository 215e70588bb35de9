"""What the operations of a template cost, and which are refused because of what they would make."""

import re
import sys
from collections.abc import Callable, Mapping, Sized, ValuesView
from collections.abc import Set as AbstractSet
from typing import Any

import jinja2

# Takes a few seconds. Templates as published spend some 100 units on each message.
MOST_WORK = 1_000_000
# For longer conversations: further work for each unit that their texts and items weigh.
WORK_PER_INPUT = 100
MOST_TEXT = 16_000_000
MOST_NUMBER = 100_000  # of a width, a precision or a count that a filter or a format is given
MOST_BITS = 20_000

NODES_PER_WORK = 8  # steps of a compiled template that take as long as one unit of work
_CHARACTERS_PER_WORK = 100

OPERATORS = ("+", "*", "**", "%")
# What no chat template needs and whose work is not in proportion to the length of the text.
REFUSED_METHODS = {"decode", "encode", "expandtabs", "maketrans", "striptags", "to_bytes", "translate"}
REFUSED_FILTERS = {"pprint", "striptags", "urlize", "xmlattr"}
COMPARING_TESTS = {
    "eq", "equalto", "==", "ne", "!=", "in",
    "lt", "lessthan", "<", "le", "<=", "gt", "greaterthan", ">", "ge", ">=",
}  # fmt: skip
# These look at their items, but not at what the items hold.
_SHALLOW_FILTERS = {
    "length", "count", "first", "last", "default", "d", "attr", "items", "safe", "list", "reverse", "batch",
    "slice", "map", "select", "reject", "selectattr", "rejectattr",
}  # fmt: skip
_DEAR_FILTERS = {"wordwrap": 20, "truncate": 20}
_FREE_NUMBERS = {"default", "d", "int", "float"}
_DEEP_METHODS = {"changed", "count", "index", "join"}


class TooMuch(jinja2.TemplateRuntimeError):
    """A template does more than it may."""


class Work:
    """What a template may still do, given what its variables hold."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self._left = sys.maxsize
        self.weigh(variables)
        self._left = MOST_WORK + WORK_PER_INPUT * (sys.maxsize - self._left)

    def spend(self, units: int) -> None:
        """Counts work.

        Raises:
            TooMuch: none is left.
        """
        self._left -= units
        if self._left < 0:
            raise TooMuch("it does more work than any real template")

    def text(self, length: int) -> None:
        """Counts a text that was made."""
        _check_length(length)
        self.spend(1 + length // _CHARACTERS_PER_WORK)

    def measure(self, value: Any) -> None:
        """Counts a value that was made of others: by its length, not by what it holds."""
        if isinstance(value, str | bytes):
            self.text(len(value))
        elif isinstance(value, int):
            _check_bits(value.bit_length())
            self.spend(1)
        elif isinstance(value, list | tuple | dict | range):
            _check_length(len(value))
            self.spend(1 + len(value) // 10)
        else:
            self.spend(1)

    def weigh(self, value: Any, times: int = 1) -> None:
        """Counts everything that a value holds, as often as it holds it."""
        waiting = [value]
        while waiting:
            part = waiting.pop()
            if isinstance(part, str | bytes):
                self.spend(times + times * len(part) // _CHARACTERS_PER_WORK)
                continue
            self.spend(times)
            if isinstance(part, dict):
                waiting += part
                waiting += part.values()
            elif isinstance(part, list | tuple) or (
                not isinstance(part, int | float) and isinstance(part, AbstractSet | ValuesView)
            ):
                waiting += part


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Refuses an operation whose result would be too large.

    Raises:
        TooMuch: it is.
    """
    whole = isinstance(left, int) and isinstance(right, int)
    if operator == "%" and isinstance(left, str):
        check_percent(left)
    elif operator == "*" and whole:
        _check_bits(left.bit_length() + right.bit_length())
    elif operator == "*":
        items, count = (right, left) if isinstance(left, int) else (left, right)
        if isinstance(count, int) and isinstance(items, str | bytes | list | tuple):
            _check_length(len(items) * count)
    elif operator == "**" and whole:
        _check_bits(left.bit_length() * max(0, right))


def check_method(work: Work, method: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Counts a call of a text's, list's or mapping's method; refuses one that would make too long a text."""
    owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
    if name in _DEEP_METHODS:
        work.weigh((owner, args))
    if not isinstance(owner, str | list | tuple | dict):
        return
    if isinstance(owner, str):
        work.text(len(owner))
    if name in _GROWING:
        _check_length(_GROWING[name](owner, *args, **kwargs))
    elif any(isinstance(argument, int) and argument > MOST_TEXT for argument in args):
        _check_length(max(argument for argument in args if isinstance(argument, int)))


def check_filter(work: Work, name: str, values: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Counts a call of a filter, and refuses one that would make too much."""
    if name in _SHALLOW_FILTERS:
        work.measure(values[0])
    else:
        work.weigh(values, _DEAR_FILTERS.get(name, 2))
    numbers = [one for one in (*values[1:], *kwargs.values()) if isinstance(one, int)]
    most = {"tojson": 100, "round": 1000}.get(name, MOST_NUMBER)
    if name not in _FREE_NUMBERS and any(abs(one) > most for one in numbers):
        raise TooMuch(
            f"it gives the filter {name} the number {max(numbers, key=abs)}; at most {most} is allowed"
        )
    if name == "sum" and any(isinstance(one, list | tuple) for one in (*values[1:], *kwargs.values())):
        work.spend(len(values[0]) ** 2)  # a sum of lists copies all that came before, again and again
    elif name == "format":
        check_percent(str(values[0]))
    elif name in _GROWING_FILTERS:
        _check_length(_GROWING_FILTERS[name](*values, **kwargs))


def check_percent(template: str) -> None:
    """Refuses a template of the operator % with a width or precision that is too large, or not in it.

    Raises:
        TooMuch: it has one.
    """
    for numbers in _PERCENT.findall(template):
        for number in numbers:
            _check_number(number)


def check_format(format_spec: str) -> None:
    """Refuses a format of `str.format` with a width or precision that is too large.

    Raises:
        TooMuch: it has one.
    """
    for number in _DIGITS.findall(format_spec):
        _check_number(number)


_PERCENT = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(\*|\d*)\.?(\*|\d*)")
_DIGITS = re.compile(r"\d+")


def _check_number(number: str) -> None:
    if number == "*" or len(number) > 6 or int(number or "0") > MOST_NUMBER:
        raise TooMuch(
            f"it formats with the width or precision {number[:20]}; at most {MOST_NUMBER} is allowed"
        )


def _check_length(length: int) -> None:
    if length > MOST_TEXT:
        raise TooMuch(f"it makes a text or list of length {length}; at most {MOST_TEXT} is allowed")


def _check_bits(bits: int) -> None:
    if bits > MOST_BITS:
        raise TooMuch(f"it computes a number of {bits} bits; at most {MOST_BITS} are allowed")


# Lengths of what growing methods and filters make. Arguments of a wrong kind count as nothing: the call
# itself says what is wrong with them.


def _length(value: Any) -> int:
    return len(value) if isinstance(value, Sized) else 0


def _padded(text: Any, width: Any = 80, *_: Any) -> int:
    return max(_length(text), width if isinstance(width, int) else 0)


def _replaced(text: str, old: Any = "", new: Any = "", *_: Any) -> int:
    return len(text) + text.count(old) * len(new) if isinstance(old, str) and isinstance(new, str) else 0


def _replaced_by_filter(value: Any, old: Any = "", new: Any = "", *_: Any, **__: Any) -> int:
    return _replaced(str(value), str(old), str(new))


def _joined(separator: Any, items: Any = (), *_: Any) -> int:
    texts = items if isinstance(items, list | tuple) else ()
    return sum(map(_length, texts)) + _length(separator) * _length(items)


def _joined_by_filter(items: Any, d: Any = "", *_: Any, **__: Any) -> int:
    return _joined(d, items)


def _indented(text: Any, width: Any = 4, *_: Any, **__: Any) -> int:
    lines = len(str(text).splitlines())
    return _length(text) + lines * (width if isinstance(width, int) else _length(width))


def _wrapped(text: Any, *arguments: Any, **named: Any) -> int:
    return _length(text) * (1 + max(map(_length, (*arguments, *named.values())), default=0))


_GROWING: dict[str, Callable[..., int]] = {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _padded),
    "replace": _replaced,
    "join": _joined,
}
_GROWING_FILTERS: dict[str, Callable[..., int]] = {
    "replace": _replaced_by_filter,
    "join": _joined_by_filter,
    "indent": _indented,
    "wordwrap": _wrapped,
}
