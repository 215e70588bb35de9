"""The hook at which the parts of blocks are computed, or given from what was kept of an earlier call."""

from collections.abc import Callable
from typing import Any, Protocol


class Modules(Protocol):
    """Called by a block at each of its parts: its mixer, its cross-attention, its feed-forward.

    It is an object of one trace: a cache decides there, or with a `lax.cond`, whether it calls `compute` or
    gives what it kept, and collects what is to be kept.
    """

    def __call__(self, name: str, compute: Callable[[], Any]) -> Any:
        """The output of the part `name` ("blocks/3/mixer"), in front of its gate.

        It is an array, or a tuple of arrays where one computation has several outputs: joint attention gives
        those of stream and context, the latter None where it ends. What is given instead must have the same
        structure.
        """


def compute_all(name: str, compute: Callable[[], Any]) -> Any:
    """Computes every part."""
    return compute()


COMPUTE: Modules = compute_all


def within(modules: Modules, block: str) -> Modules:
    """The hook for the parts of one block, which knows them by the names that it gives them itself."""
    return lambda name, compute: modules(f"{block}/{name}", compute)
