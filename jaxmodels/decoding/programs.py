"""Compiled programs that do not pile up: of all kinds of calls together the latest are kept.

A process that serves requests of many sizes compiles a program for each bucket, batch size and strategy, and
each takes tens of megabytes. `bounded_jit` is `jax.jit` for functions that are called so: the programs of all
of them stand in one list, and beyond `MOST_PROGRAMS` the one whose last use is longest ago is dropped. A
request that needs it again compiles it again.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax

# An answer needs one program and a stream two; 32 is a few strategies with a few sizes of prompts each.
MOST_PROGRAMS = 32

# By what was called and the types of its arguments; the latest used stands last.
_programs: OrderedDict[Hashable, Any] = OrderedDict()


class BoundedJit:
    """A jitted function whose compiled programs are among those that `bounded_jit` counts."""

    def __init__(
        self, function: Callable[..., Any], static_argnames: Sequence[str], donate_argnames: Sequence[str]
    ) -> None:
        functools.update_wrapper(self, function)
        self.name = function.__name__
        self._function = function
        self._static, self._donated = tuple(static_argnames), tuple(donate_argnames)
        self._plain = self._jitted()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return self._plain(*arguments, **named)  # part of another program
        mesh = jax.sharding.get_abstract_mesh()  # by which layers are traced
        key = (self._function, structure, tuple(map(_kind, leaves)), tuple(sorted(named.items())), mesh)
        if key not in _programs:
            _programs[key] = self._jitted()
        _programs.move_to_end(key)
        drop_programs(MOST_PROGRAMS)
        return _programs[key](*arguments, **named)

    def trace(self, *arguments: Any, **named: Any) -> Any:
        """The traced program, as `jax.jit` gives it, without a place in the list."""
        return self._plain.trace(*arguments, **named)

    def lower(self, *arguments: Any, **named: Any) -> Any:
        """The lowered program, as `jax.jit` gives it, without a place in the list."""
        return self._plain.lower(*arguments, **named)

    def count(self) -> int:
        """How many programs of this function are kept."""
        return sum(key[0] is self._function for key in _programs)  # type: ignore[index]

    def _jitted(self) -> Any:
        # A function of its own: what JAX keeps of a program goes with the function that it was made of.
        @functools.wraps(self._function)
        def function(*arguments: Any, **named: Any) -> Any:
            return self._function(*arguments, **named)

        return jax.jit(function, static_argnames=self._static, donate_argnames=self._donated)


def bounded_jit(
    *, static_argnames: Sequence[str], donate_argnames: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], BoundedJit]:
    """A decorator: `jax.jit` with a bounded number of programs. Only static arguments are passed by name."""
    return lambda function: BoundedJit(function, static_argnames, donate_argnames)


def drop_programs(most: int = 0) -> None:
    """Drops compiled programs, the longest unused first, until `most` are left; their memory becomes free."""
    while len(_programs) > most:
        _, program = _programs.popitem(last=False)
        program.clear_cache()


def _kind(leaf: Any) -> Hashable:
    """What a program depends on of one array."""
    aval = jax.typeof(leaf)
    return aval.shape, aval.dtype, getattr(aval, "weak_type", False), getattr(leaf, "sharding", None)
