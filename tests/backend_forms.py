"""Programs with another backend's forms, run here: whether all forms of an operation compute the same."""

import contextlib
from collections.abc import Iterator

import jax
import pytest

from jaxmodels.layers.backends import Backend, ByBackend


@contextlib.contextmanager
def forms_of(backend: Backend) -> Iterator[None]:
    """What is traced inside gets the forms of `backend`, on whatever it runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ByBackend, "__call__", lambda self, *operands: self.form(backend)(*operands))
        jax.clear_caches()  # of inner functions traced before
        yield
    jax.clear_caches()
