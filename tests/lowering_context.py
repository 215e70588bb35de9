"""Lets the programs of a process be lowered in one MLIR context, in place of a new one for each.

A context costs about five milliseconds, half of what a small program takes from its trace to its first run,
and the tests lower tens of thousands. What is lowered stays the same.
"""

import threading

# A context keeps every type, attribute and location that was ever made in it.
MOST_PROGRAMS = 500


def install() -> None:
    """Replaces the function of jax that makes contexts, where it has one. Each thread has its own."""
    from jax._src.interpreters import mlir

    make = getattr(mlir, "make_ir_context", None)
    if make is None:
        return
    kept = threading.local()

    def shared():
        kept.programs = getattr(kept, "programs", MOST_PROGRAMS) + 1
        if kept.programs > MOST_PROGRAMS:
            kept.programs, kept.context = 1, make()
        return kept.context

    mlir.make_ir_context = shared
