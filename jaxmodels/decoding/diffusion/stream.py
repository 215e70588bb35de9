"""`StreamDiffusion`: one frame in and one frame out of each call of the model."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.checks import whole
from jaxmodels.decoding.diffusion.guidance.residual import StreamGuidance
from jaxmodels.decoding.diffusion.noise import Noise
from jaxmodels.decoding.diffusion.prediction import Predicted, Prediction
from jaxmodels.decoding.diffusion.samplers.sampler import Plan, Sampler
from jaxmodels.decoding.programs import bounded_jit
from jaxmodels.decoding.strategy import check_policy
from jaxmodels.layers.spec import Params
from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class Slots:
    """What is made once for a stream, a row for each of the N steps that its frames are in.

    Attributes:
        plan: the sampler's tables.
        next_sigma: f32[N], the factor of noise in the canvas behind each step; 1 behind the last.
        noise: f32[N, H, W, C], what frames begin with, and what is added in front of each other step. It is
            the same for all frames.
        given: what the denoiser's `read` made of the condition, for each canvas of a call.
        made: what its `conditions` made of that and the times.
    """

    plan: Plan
    next_sigma: Any
    noise: jax.Array
    given: Any
    made: Any


@struct.dataclass
class StreamState:
    """What a call hands to the next.

    Attributes:
        canvases: f32[N - 1, H, W, C], the frames that are not done, the newest first, in front of their next
            steps.
        stock: f32[N - 1, H, W, C], what stands for the unconditional noise in these steps.
    """

    canvases: jax.Array
    stock: jax.Array


@dataclass(frozen=True, kw_only=True)
class StreamDiffusion:
    """Denoises a stream of frames with all of their steps in one batch: a new frame takes its first step
    while those before take their next ones (Kodaira et al. 2023, https://arxiv.org/abs/2312.12491).

    A call has a batch of `steps` canvases, whatever the frame; the frame that it gives is the one that came
    in ``steps - 1`` calls before. The first ``steps - 1`` frames given are of no picture. Strengths, frames
    and seeds are data.

    Attributes:
        sampler: how predictions become canvases: one without memory, such as `LCM` or `DDIM`.
        steps: steps of each frame.
        guidance: `Residual` or `ResidualFromFirst`; None for none.

    Raises:
        ValueError: an option of another kind. When run: a sampler with memory, or model and options do not
            fit one another.
    """

    sampler: Sampler
    steps: int
    guidance: StreamGuidance | None = None

    def __post_init__(self) -> None:
        check_policy("sampler", self.sampler, "plan", "LCM()")
        if self.guidance is not None:
            check_policy("guidance", self.guidance, "extra", "Residual(1.2)")
        whole("steps", self.steps, low=1)

    def prepare(
        self, denoiser: Denoiser, params: Params, noise: Noise, condition: Any, unconditional: Any = None
    ) -> Slots:
        """What is made once for a stream; for another condition it is made again, and the stream goes on.

        Args:
            denoiser: the model.
            params: its parameters.
            noise: of as many canvases as there are steps.
            condition: of one row, as the denoiser takes it.
            unconditional: likewise, what `ResidualFromFirst` leads away from; None with others.

        Raises:
            ValueError: see `StreamDiffusion`.
        """
        count, *canvas = noise.shape
        if count != self.steps:
            raise ValueError(f"noise: expected that of {self.steps} canvases, one for each step, got {count}")
        extra = 0 if self.guidance is None else self.guidance.extra
        if bool(extra) != (unconditional is not None):
            given = "an" if unconditional is not None else "no"
            raise ValueError(f"{given} unconditional condition is given, but guidance={self.guidance}")
        x: Any = jax.ShapeDtypeStruct((1, *canvas), jnp.float32)
        t: Any = jax.ShapeDtypeStruct((1,), jnp.float32)
        for each in (condition, unconditional):
            if each is not None:
                denoiser.check(x, t, each)
        if jax.tree.leaves(jax.eval_shape(self.sampler.begin, x)):
            raise ValueError(
                f"sampler={self.sampler} remembers earlier steps, which frames in a stream do not"
            )
        rows, columns = denoiser.projections.grid(x)
        plan = self.sampler.plan(self.steps, rows * columns)
        next_sigma = np.append(plan.sigma[1:], 1.0)
        tables = jax.tree.map(lambda table: np.asarray(table, np.float32), (plan, next_sigma))
        slots: Slots = stream_slots(params, noise, condition, unconditional, *tables, denoiser=denoiser)
        return slots

    def begin(self, slots: Slots) -> StreamState:
        """The state in front of the first frame."""
        return StreamState(slots.noise[1:], slots.noise[1:])

    def frame(
        self,
        denoiser: Denoiser,
        params: Params,
        slots: Slots,
        state: StreamState,
        latents: Float[Array, "H W C"] | None = None,
    ) -> tuple[Float[Array, "H W C"], StreamState]:
        """The next frame's latents, and the state behind it, in the place of the state that is given away.

        Args:
            denoiser: the model.
            params: its parameters.
            slots: what `prepare` gave.
            state: what `begin` or the last call gave.
            latents: of the frame that comes in, to which noise is added; None for a picture of noise alone.

        Raises:
            ValueError: `latents` have another shape than the noise.
        """
        if latents is not None and latents.shape != slots.noise.shape[1:]:
            wanted, got = list(slots.noise.shape[1:]), list(latents.shape)
            raise ValueError(f"latents: expected {wanted}, got {got}")
        done: tuple[Float[Array, "H W C"], StreamState] = next_frame(
            self, params, slots, latents, state, denoiser=denoiser
        )
        return done


@bounded_jit(static_argnames=("denoiser",))
def stream_slots(
    params: Params,
    noise: Noise,
    condition: Any,
    unconditional: Any,
    plan: Plan,
    next_sigma: Float[Array, "N"],
    *,
    denoiser: Denoiser,
) -> Slots:
    """The program of what is made once."""
    times = jnp.asarray(plan.times)
    rows = jax.tree.map(lambda leaf: jnp.repeat(leaf, len(times), axis=0), condition)
    if unconditional is not None:
        rows = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), unconditional, rows)
        times = jnp.concatenate([times[:1], times])
    given = denoiser.read(params, rows)
    return Slots(plan, next_sigma, noise.first(), given, denoiser.conditions(params, times, given))


@bounded_jit(static_argnames=("denoiser",), donate_argnames=("state",))
def next_frame(
    policy: StreamDiffusion,
    params: Params,
    slots: Slots,
    latents: Float[Array, "H W C"] | None,
    state: StreamState,
    *,
    denoiser: Denoiser,
) -> tuple[Float[Array, "H W C"], StreamState]:
    """The program of one frame."""
    plan, noise = slots.plan, slots.noise
    first = noise[0] * plan.start if latents is None else plan.alpha[0] * latents + plan.sigma[0] * noise[0]
    x = jnp.concatenate([first[None], state.canvases])
    shown = x * _each(plan.input_scale)
    if policy.guidance is not None:
        shown = jnp.concatenate([shown[: policy.guidance.extra], shown])
    streams = denoiser.embed(params, shown, slots.given)
    streams = denoiser.run(params, streams, slots.made, slots.given, range(denoiser.num_blocks))
    output = denoiser.finish(params, streams, slots.made, *x.shape[1:3]).astype(jnp.float32)
    added = jnp.concatenate([noise[1:], jnp.zeros_like(noise[:1])])
    if policy.guidance is None:
        kind = policy.sampler.prediction
        canvases = _steps(policy.sampler, output, x, kind, plan, added)
        return canvases[-1], StreamState(canvases[:-1], state.stock)
    extra = policy.guidance.extra
    seen = jnp.concatenate([x[:extra], x])
    by_model = _noise(output, seen, policy.sampler.prediction, plan, extra)
    stock = jnp.concatenate([noise[:1], state.stock])
    guided, stock = policy.guidance(by_model, stock)
    canvases = _steps(policy.sampler, guided, x, Prediction.EPSILON, plan, added)
    # How a canvas of the stock alone is led on says by how much the stock was not what the model predicted.
    alone = _each(plan.sigma) * stock
    led = _steps(policy.sampler, guided, alone, Prediction.EPSILON, plan, jnp.zeros_like(added))
    stock = added + led / _each(slots.next_sigma)
    return canvases[-1], StreamState(canvases[:-1], stock[:-1])


def _each(factors: Any) -> Float[Array, "N 1 1 1"]:
    """Factors f32[N] for canvases."""
    return jnp.asarray(factors)[:, None, None, None]


def _noise(
    output: Float[Array, "M H W O"], x: Float[Array, "M H W C"], kind: Prediction, plan: Plan, extra: int
) -> Float[Array, "M H W C"]:
    """The noise in the model's outputs, of which `extra` come twice."""
    alpha, sigma = (jnp.concatenate([table[:extra], table]) for table in (plan.alpha, plan.sigma))
    return Predicted(output, x, _each(alpha), _each(sigma), kind).noise()


def _steps(
    sampler: Sampler,
    output: Float[Array, "N H W O"],
    x: Float[Array, "N H W C"],
    kind: Prediction,
    plan: Plan,
    noise: Float[Array, "N H W C"],
) -> Float[Array, "N H W C"]:
    """Each canvas behind its own step of the plan."""

    def one(output: Array, x: Array, noise: Array, row: tuple[Any, Any, Any]) -> Array:
        rows, alpha, sigma = row
        predicted = Predicted(output[None], x[None], alpha, sigma, kind)
        stepped, _ = sampler.step(
            predicted, rows, sampler.begin(x[None]), noise[None] if plan.draws else None
        )
        return stepped[0]

    return jax.vmap(one)(output, x, noise, (plan.rows, plan.alpha, plan.sigma))


register_dataclass(StreamDiffusion, ["guidance"], ["sampler", "steps"])
