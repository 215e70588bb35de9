"""The seam between an operation and the forms in which backends compute it.

Compilers differ in what they make of the same mathematics. Where that matters, an operation is a `ByBackend`:
the portable form, which is the reference, and beside it the forms that some backends get instead. All of them
give the same numbers up to rounding. The choice is made when a program is lowered, so that one traced program
serves every backend; nothing asks which devices the process has.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from jax import lax

Backend = Literal["cpu", "tpu", "gpu"]
BACKENDS: tuple[Backend, ...] = ("cpu", "tpu", "gpu")
# Rows of one tile in a TPU's memory. Of products with fewer its compiler makes poorer forms.
TPU_TILE_ROWS = 8
# What jax calls the platforms of a backend.
_PLATFORMS: dict[Backend, tuple[str, ...]] = {"cpu": ("cpu",), "tpu": ("tpu",), "gpu": ("cuda", "rocm")}


@dataclass(frozen=True, kw_only=True)
class ByBackend:
    """An operation on arrays; called with its operands, each a pytree.

    All forms are traced wherever the operation is used, so that each costs a little of every compilation.

    Attributes:
        portable: the form of all backends that have none of their own, and the reference for those.
        cpu, tpu, gpu: a backend's own form, None where it gets the portable one.
    """

    portable: Callable[..., Any]
    cpu: Callable[..., Any] | None = None
    tpu: Callable[..., Any] | None = None
    gpu: Callable[..., Any] | None = None

    def __call__(self, *operands: Any) -> Any:
        own = {
            platform: form
            for backend in BACKENDS
            if (form := getattr(self, backend)) is not None
            for platform in _PLATFORMS[backend]
        }
        if not own:
            return self.portable(*operands)
        return lax.platform_dependent(*operands, default=self.portable, **own)

    def given(self, **settings: Any) -> "ByBackend":
        """The operation with keyword arguments that every form takes and that are known when it is traced."""

        def with_settings(form: Callable[..., Any] | None) -> Callable[..., Any] | None:
            return None if form is None else functools.partial(form, **settings)

        return ByBackend(
            portable=functools.partial(self.portable, **settings),
            cpu=with_settings(self.cpu),
            tpu=with_settings(self.tpu),
            gpu=with_settings(self.gpu),
        )

    def form(self, backend: Backend) -> Callable[..., Any]:
        """The form that `backend` gets."""
        own: Callable[..., Any] | None = getattr(self, backend)
        return self.portable if own is None else own
