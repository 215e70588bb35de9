"""Training of HarmoniCa's router: along whole runs, without pictures."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Bool, Float

from jaxmodels.checks import number, whole
from jaxmodels.decoding.diffusion.caches.cache import Step
from jaxmodels.decoding.diffusion.caches.outputs import Output, Outputs, block_parts, no_outputs, predict
from jaxmodels.decoding.diffusion.driver import Asked, Denoise, first_carry, further_calls
from jaxmodels.decoding.diffusion.guidance.guidance import Guidance
from jaxmodels.decoding.diffusion.guidance.guidance import Outputs as Pair
from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.layers.spec import Params
from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.pytrees import register_dataclass

# Logits stay between the two, and those of the first step at the upper one.
_BOUND = 5.0


@dataclass(frozen=True, kw_only=True)
class RouterTraining:
    """How a router is trained (https://arxiv.org/abs/2410.01723); the defaults are those published for
    DiT-XL.

    A router gives each part of each step a weight from 0 to 1. In training a part's output is the mix of its
    new output and the one that was last kept, by that weight, and the new one is kept where the weight is
    above the threshold. Runs go on by what the mixed model predicts.

    Attributes:
        runs: whole runs to train along, each from noise and conditions of its own.
        threshold: see `HarmoniCa.threshold`.
        price: what one computed part costs, against the squared error of a prediction times that which it
            leads to in the final canvas.
        learning_rate: of Adam.
        refresh: after so many runs the errors of final canvases are measured again.
        seed: of the logits at the beginning.

    Raises:
        ValueError: a number outside its range.
    """

    runs: int = 2000
    threshold: float = 0.1
    price: float = 7e-8
    learning_rate: float = 0.01
    refresh: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in {"runs": 1, "refresh": 1, "seed": 0}.items():
            whole(name, getattr(self, name), low=low)
        number("threshold", self.threshold, low=0.0, high=1.0)
        for name in ("price", "learning_rate"):
            number(name, getattr(self, name), low=0.0, low_included=False)

    def train(
        self,
        policy: Denoise,
        denoiser: Denoiser,
        params: Params,
        draw: Callable[[int], Asked],
        progress: Callable[[int, float, float], None] = lambda run, loss, computed: None,
    ) -> np.ndarray:
        """f32[N, M], a router for `HarmoniCa`.

        Args:
            policy: the runs that the router is for: sampler, steps and guidance; it needs no cache.
            denoiser: the model.
            params: its parameters.
            draw: noise and conditions of a run, by its number; all of one shape.
            progress: called behind each run with its number, the error of its predictions and the mean share
                of parts above the threshold.

        Raises:
            ValueError: `policy` or what is drawn does not fit the model.
        """
        first = draw(0)
        calls, parts = len(policy.prepare(denoiser, first).calls.number), len(block_parts(denoiser))
        key = jax.random.key(self.seed)
        router = jax.random.normal(key, (calls, parts)).at[0].set(_BOUND)
        optimizer = optax.adam(self.learning_rate)
        moments, errors = optimizer.init(router), jnp.ones(calls)
        for run in range(self.runs):
            asked = draw(run)
            if run % self.refresh == 0:
                errors = jnp.asarray(self.errors(policy, denoiser, params, asked, router))
            guidance, kind = policy.guidance, policy.sampler.prediction
            routing = Routing(router, errors, self.threshold, self.price, guidance, kind)
            state = _at_the_end(replace(policy, cache=routing), denoiser, params, asked)
            updates, moments = optimizer.update(state.slopes.at[0].set(0.0), moments)
            router = jnp.clip(router + updates, -_BOUND, _BOUND)
            progress(run, float(state.error), float((jax.nn.sigmoid(router) > self.threshold).mean()))
        return np.asarray(router, np.float32)

    def errors(
        self, policy: Denoise, denoiser: Denoiser, params: Params, asked: Asked, router: Array
    ) -> np.ndarray:
        """f32[N], how much the final canvases change when the router mixes in this step too, beside those
        before it: the mean square. Steps whose reuse shows in the picture weigh more."""
        ones = np.ones_like(router)
        canvases = []
        for mixed in range(len(ones)):
            weights = np.where(np.arange(len(ones))[:, None] <= mixed, jax.nn.sigmoid(router), ones)
            weights[0] = 1
            cache = Mixing(weights, self.threshold)
            canvases.append(replace(policy, cache=cache).run(denoiser, params, asked).latents)
        changes = [float(((now - then) ** 2).mean()) for then, now in pairwise(canvases)]
        return np.array([0.0, *changes], np.float32)


class Mixed:
    """A `Modules` of one trace: gives a mix of the new output and the kept one, by a weight for each part.

    Attributes:
        computed: the new outputs.
    """

    def __init__(self, weights: dict[str, Float[Array, ""]], kept: Outputs) -> None:
        self._weights, self._kept, self.computed = weights, kept, Outputs()

    def __call__(self, name: str, compute: Callable[[], Output]) -> Output:
        if name not in self._weights:
            return compute()
        self.computed[name], weight = compute(), self._weights[name]
        return jax.tree.map(
            lambda new, old: weight * new + (1 - weight) * old, self.computed[name], self._kept[name]
        )


def mix(step: Step, weights: Float[Array, "M"], kept: Outputs) -> tuple[Float[Array, "B H W C"], Outputs]:
    """The prediction of a step whose parts are mixed, and the parts' new outputs."""
    mixed = Mixed(dict(zip(block_parts(step.denoiser), weights, strict=True)), kept)
    return predict(step, mixed), mixed.computed


def keep(new: Outputs, kept: Outputs, is_kept: Bool[Array, "M"], denoiser: Denoiser) -> Outputs:
    """The outputs to mix with in the next step."""
    names = block_parts(denoiser)
    return {
        name: jax.tree.map(lambda now, then, i=i: jnp.where(is_kept[i], now, then), new[name], kept[name])
        for i, name in enumerate(names)
    }


@dataclass(frozen=True, eq=False)
class Mixing:
    """A `StepCache` that mixes as in training and leaves nothing out.

    Attributes:
        weights: f[N, M], of the new output of each part in each step; all 1 in the first.
        threshold: the new output is kept where the weight is above it.
    """

    weights: Any
    threshold: float

    def rows(self, denoiser: Denoiser, plan: Plan) -> Any:
        """Weights, and whether outputs are kept."""
        return self.weights, self.weights > self.threshold

    def begin(self, step: Step) -> Outputs:
        """No outputs."""
        return no_outputs(step, block_parts(step.denoiser))

    def denoise(
        self, step: Step, row: tuple[Float[Array, "M"], Bool[Array, "M"]], state: Outputs
    ) -> tuple[Float[Array, "B H W C"], Outputs, Float[Array, ""]]:
        """See `StepCache.denoise`."""
        weights, is_kept = row
        prediction, new = mix(step, weights, state)
        return prediction, keep(new, state, is_kept, step.denoiser), jnp.float32(step.denoiser.num_blocks)


@struct.dataclass
class RoutingRow:
    """A step of `Routing`.

    Attributes:
        number: i32[], 0 for the first.
        guidance: the guidance's row, None without.
        input_scale, alpha, sigma: f32[], see `Plan`.
    """

    number: Any
    guidance: Any
    input_scale: Any
    alpha: Any
    sigma: Any


@struct.dataclass
class RoutingState:
    """What a training run keeps.

    Attributes:
        kept: the outputs to mix with.
        slopes: f32[N, M], the derivatives of the loss by the logits, as far as the run has come.
        error: f32[], the squared errors of predictions, in sum.
    """

    kept: Outputs
    slopes: jax.Array
    error: jax.Array


@dataclass(frozen=True, eq=False)
class Routing:
    """A `StepCache` of training: it predicts by the mix, and keeps how the loss changes with the router.

    Attributes:
        router: f32[N, M].
        errors: f32[N], see `RouterTraining.errors`.
        threshold, price: see `RouterTraining`.
        guidance: that of the run: errors are those of guided predictions.
        kind: what the model predicts.
    """

    router: Any
    errors: Any
    threshold: float
    price: float
    guidance: Guidance | None
    kind: Prediction

    def rows(self, denoiser: Denoiser, plan: Plan) -> RoutingRow:
        """What guidance is told, and the numbers of the steps."""
        return RoutingRow(
            number=np.arange(plan.calls),
            guidance=None if self.guidance is None else self.guidance.rows(plan),
            input_scale=plan.input_scale,
            alpha=plan.alpha,
            sigma=plan.sigma,
        )

    def begin(self, step: Step) -> RoutingState:
        """Nothing."""
        kept = no_outputs(step, block_parts(step.denoiser))
        return RoutingState(kept, jnp.zeros_like(self.router), jnp.float32(0))

    def denoise(
        self, step: Step, row: RoutingRow, state: RoutingState
    ) -> tuple[Float[Array, "B H W C"], RoutingState, Float[Array, ""]]:
        """See `StepCache.denoise`."""
        wanted = self._guided(predict(step), step, row)

        def loss(logits: Float[Array, "M"]) -> tuple[Array, tuple[Array, Outputs, Array]]:
            weights = jnp.where(row.number == 0, 1.0, jax.nn.sigmoid(logits))
            prediction, new = mix(step, weights, state.kept)
            error = ((self._guided(prediction, step, row) - wanted) ** 2).mean()
            return self.errors[row.number] * error + self.price * weights.sum(), (prediction, new, error)

        logits = self.router[row.number]
        slope, (prediction, new, error) = jax.grad(loss, has_aux=True)(logits)
        is_kept = (row.number == 0) | (jax.nn.sigmoid(logits) > self.threshold)
        state = RoutingState(
            kept=keep(new, state.kept, is_kept, step.denoiser),
            slopes=state.slopes.at[row.number].set(slope),
            error=state.error + error,
        )
        return prediction, state, jnp.float32(step.denoiser.num_blocks)

    def _guided(self, output: Float[Array, "_ H W O"], step: Step, row: RoutingRow) -> Array:
        if self.guidance is None:
            return output
        conditional, unconditional = jnp.split(output, 2)
        x = step.x[: len(conditional)] / row.input_scale
        pair = Pair(conditional, unconditional, x, row.alpha, row.sigma, self.kind)
        return self.guidance(pair, row.guidance).output


def _at_the_end(policy: Denoise, denoiser: Denoiser, params: Params, asked: Asked) -> RoutingState:
    """What a training run keeps at its end."""
    tables = policy.prepare(denoiser, asked)
    carry = first_carry(policy, params, asked, tables.part(0, 1), denoiser=denoiser)
    carry, _ = further_calls(policy, params, asked, tables, carry, denoiser=denoiser)
    kept: RoutingState = carry.kept
    return kept


register_dataclass(Mixing, ["weights", "threshold"], [])
register_dataclass(Routing, ["router", "errors", "threshold", "price", "guidance"], ["kind"])
