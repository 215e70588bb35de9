"""Parts of blocks whose outputs a step gives from those of earlier ones.

Outputs are known by the names of the parts, see `jaxmodels.models.modules`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxmodels.checks import shown
from jaxmodels.decoding.diffusion.caches.cache import Step
from jaxmodels.decoding.diffusion.caches.residuals import zeros_like
from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.models.modules import COMPUTE, Modules

# Of a part of a block: an array, or a tuple of arrays, see `Modules`.
Output = Any
Outputs = dict[str, Output]

# The kinds of parts that blocks have, by the last words of their names.
ALL_KINDS = ("mixer", "second", "cross", "ffn", "context_ffn")


class Recording:
    """A `Modules` of one trace: computes all parts, and keeps the outputs of those that are asked for."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names, self.outputs = names, Outputs()

    def __call__(self, name: str, compute: Callable[[], Output]) -> Output:
        output = compute()
        if name in self._names:
            self.outputs[name] = output
        return output


class Giving:
    """A `Modules` of one trace: gives the outputs that it has, and computes other parts."""

    def __init__(self, outputs: Mapping[str, Output]) -> None:
        self._outputs = outputs

    def __call__(self, name: str, compute: Callable[[], Output]) -> Output:
        return self._outputs[name] if name in self._outputs else compute()


class Choosing:
    """A `Modules` of one trace: a part with a flag is computed where that is set, and given from what was
    kept of an earlier step where it is not.

    Attributes:
        kept: the outputs of the parts with flags, those of this step as far as it has come.
    """

    def __init__(self, fresh: Mapping[str, Bool[Array, ""]], kept: Outputs) -> None:
        self._fresh, self.kept = fresh, dict(kept)

    def __call__(self, name: str, compute: Callable[[], Output]) -> Output:
        if name not in self._fresh:
            return compute()
        kept = self.kept[name]
        self.kept[name] = lax.cond(self._fresh[name], compute, lambda: kept)
        return self.kept[name]


def predict(step: Step, modules: Modules = COMPUTE) -> Float[Array, "B H W C"]:
    """The prediction of a step, all of its blocks run with this hook."""
    return step.finish(step.run(step.embed(), range(step.denoiser.num_blocks), modules))


def predict_recording(step: Step, names: tuple[str, ...]) -> tuple[Float[Array, "B H W C"], Outputs]:
    """The prediction of a step, and the outputs of these parts."""
    recording = Recording(names)
    return predict(step, recording), recording.outputs


def predict_choosing(
    step: Step, fresh: Mapping[str, Bool[Array, ""]], kept: Outputs
) -> tuple[Float[Array, "B H W C"], Outputs, Float[Array, ""]]:
    """The prediction of a step that computes the parts whose flags are set, their outputs, and how many
    blocks that comes to, counted by their parts."""
    choosing = Choosing(fresh, kept)
    prediction = predict(step, choosing)
    parts = len(block_parts(step.denoiser))
    computed = parts - len(fresh) + jnp.stack(list(fresh.values())).sum().astype(jnp.float32)
    return prediction, choosing.kept, step.denoiser.num_blocks * computed / parts


def no_outputs(step: Step, names: tuple[str, ...]) -> Outputs:
    """Zeros, of the shapes of the outputs of these parts."""
    return zeros_like(jax.eval_shape(lambda step: predict_recording(step, names)[1], step))


def block_parts(denoiser: Denoiser) -> tuple[str, ...]:
    """The names of the parts of a model's blocks, in the order in which they are computed. Parts that hold
    whole blocks, such as an encoder, are not among them."""
    return tuple(name for name in denoiser.module_names() if "/" in name)


def parts_named(denoiser: Denoiser, kinds: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the parts of these kinds, "mixer" or "ffn".

    Raises:
        ValueError: the model has none.
    """
    names = block_parts(denoiser)
    found = tuple(name for name in names if kind(name) in kinds)
    if not found:
        has = ", ".join(dict.fromkeys(map(kind, names)))
        raise ValueError(f"parts: blocks of the model have {has}, got {shown(kinds)}")
    return found


def kind(name: str) -> str:
    """What a part is: "mixer" for "blocks/3/mixer"."""
    return name.rpartition("/")[2]
