"""`Denoise`: the one loop of diffusion, whose sampler, guidance and cache are policies."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Float

from jaxmodels.checks import whole
from jaxmodels.decoding.diffusion.caches.cache import NoCache, Step, StepCache
from jaxmodels.decoding.diffusion.guidance.guidance import Guidance, Outputs
from jaxmodels.decoding.diffusion.noise import Noise
from jaxmodels.decoding.diffusion.prediction import Predicted
from jaxmodels.decoding.diffusion.samplers.sampler import Sampler
from jaxmodels.decoding.finite import NotFinite
from jaxmodels.decoding.programs import bounded_jit
from jaxmodels.decoding.strategy import check_policy
from jaxmodels.layers.spec import Params
from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class Calls:
    """What is known of calls of the model before a run, a row for each.

    Attributes:
        number: i32[N], 0 for the first.
        times: f32[N] or [N, 2], see `Plan`; so are the others.
        input_scale: f32[N].
        alpha: f32[N].
        sigma: f32[N].
        sampler: the sampler's rows.
        guidance: the guidance's rows; None without.
        cache: the cache's rows.
    """

    number: Any
    times: Any
    input_scale: Any
    alpha: Any
    sigma: Any
    sampler: Any
    guidance: Any
    cache: Any


@struct.dataclass
class Tables:
    """What is known of a run before it.

    Attributes:
        calls: of each call of the model.
        start: f32[], what unit noise is multiplied by at the beginning.
        draws: whether the sampler reads fresh noise.
    """

    calls: Calls
    start: Any
    draws: bool = struct.field(pytree_node=False)

    def part(self, start: int, stop: int) -> "Tables":
        """The same with some of the calls."""
        calls: Calls = jax.tree.map(lambda rows: rows[start:stop], self.calls)
        return self.replace(calls=calls)  # type: ignore[attr-defined, no-any-return]


@struct.dataclass
class Asked:
    """What a run is asked for.

    Attributes:
        noise: where its noise comes from.
        condition: of each image, as the denoiser takes it.
        unconditional: of each image, what guidance leads away from; None without guidance.
    """

    noise: Noise
    condition: Any
    unconditional: Any = None


@struct.dataclass
class Carry:
    """What a call of the model hands to the next.

    Attributes:
        x: f32[B, H, W, C], the canvases.
        memory: the sampler's.
        kept: the cache's.
        broken: i32[], the first call behind which canvases were not finite; -1 for none.
    """

    x: jax.Array
    memory: Any
    kept: Any
    broken: jax.Array


@struct.dataclass
class Run:
    """What a run, or a part of it, gave.

    Attributes:
        latents: f32[B, H, W, C], the canvases behind the last call of the model.
        blocks: f32[N], how many of the model's blocks each call computed.
        broken: see `Carry`.
    """

    latents: jax.Array
    blocks: jax.Array
    broken: jax.Array

    @property
    def calls(self) -> int:
        """How often the model was called."""
        return len(self.blocks)

    def check(self, of: int) -> None:
        """Waits for the run. Raises `NotFinite` where a call, of so many, gave numbers that are none."""
        if (broken := int(self.broken)) >= 0:
            raise NotFinite(
                f"latents are not finite behind call {broken + 1} of {of} of the model: look for "
                "parameters or noise that are not, or a sampler for another kind of prediction"
            )


@dataclass(frozen=True, kw_only=True)
class Denoise:
    """From noise to latents, in one program for all steps: a scan over tables that are made on the host.

    Conditions of all calls of the model are made at once, and with guidance both of them are one batch,
    ``[condition | unconditional]``. Strengths of guidance, masks and thresholds of caches, seeds and
    conditions are data; another sampler or number of steps is another program.

    Attributes:
        sampler: how a prediction becomes the next canvas.
        steps: steps of the sampler.
        guidance: how predictions are pushed away from those of another condition; None for not at all.
        cache: what is kept of earlier calls, and which work that saves.

    Raises:
        ValueError: an option of another kind. When run: the sampler has no run of so many steps, a cache is
            made for another number of calls, or model and options do not fit one another.
    """

    sampler: Sampler
    steps: int
    guidance: Guidance | None = None
    cache: StepCache = field(default_factory=NoCache)

    def __post_init__(self) -> None:
        check_policy("sampler", self.sampler, "plan", "DDIM()")
        check_policy("cache", self.cache, "denoise", "NoCache()")
        if self.guidance is not None:
            check_policy("guidance", self.guidance, "rows", "CFG(4.0)")
        whole("steps", self.steps, low=1)

    def run(self, denoiser: Denoiser, params: Params, asked: Asked) -> Run:
        """The whole run.

        Raises:
            ValueError: `asked` does not fit the model or the options; see `Denoise` for the others.
            NotFinite: a call gave latents that are NaN or infinite.
        """
        tables = self.prepare(denoiser, asked)
        run: Run = whole_run(self, params, asked, tables, denoiser=denoiser)
        run.check(len(tables.calls.number))
        return run

    def stream(self, denoiser: Denoiser, params: Params, asked: Asked, every: int = 1) -> Iterator[Run]:
        """The same run in parts of `every` calls of the model: what each of them gave.

        Raises: see `run`.
        """
        every = whole("every", every, low=1)
        tables = self.prepare(denoiser, asked)
        count = len(tables.calls.number)
        carry: Carry = first_carry(self, params, asked, tables.part(0, 1), denoiser=denoiser)
        for start in range(0, count, every):
            part = tables.part(start, min(start + every, count))
            carry, blocks = further_calls(self, params, asked, part, carry, denoiser=denoiser)
            run = Run(carry.x, blocks, carry.broken)
            run.check(count)
            yield run

    def prepare(self, denoiser: Denoiser, asked: Asked) -> Tables:
        """The run's tables, float32.

        Raises:
            ValueError: see `run`.
        """
        if (asked.unconditional is None) != (self.guidance is None):
            given = "no unconditional" if asked.unconditional is None else "an unconditional"
            raise ValueError(f"asked has {given} condition, but guidance={self.guidance}")
        x: Any = jax.ShapeDtypeStruct(asked.noise.shape, jnp.float32)
        rows, columns = denoiser.projections.grid(x)
        plan = self.sampler.plan(self.steps, rows * columns)
        t: Any = jax.ShapeDtypeStruct((x.shape[0], *plan.times.shape[1:]), jnp.float32)
        denoiser.check(x, t, asked.condition)
        if self.guidance is not None:
            denoiser.check(x, t, asked.unconditional)
        if plan.draws:
            asked.noise.check(plan.calls)
        calls = Calls(
            number=np.arange(plan.calls),
            times=plan.times,
            input_scale=plan.input_scale,
            alpha=plan.alpha,
            sigma=plan.sigma,
            sampler=plan.rows,
            guidance=None if self.guidance is None else self.guidance.rows(plan),
            cache=self.cache.rows(denoiser, plan),
        )
        tables: Tables = jax.tree.map(_narrow, Tables(calls, plan.start, plan.draws))
        return tables

    def _condition(self, asked: Asked) -> Any:
        """The condition of one call's batch."""
        if self.guidance is None:
            return asked.condition
        pair = (asked.condition, asked.unconditional)
        return jax.tree.map(lambda *both: jnp.concatenate(both), *pair)

    def _shown(self, x: Float[Array, "B H W C"], call: Calls) -> Float[Array, "_ H W C"]:
        """The canvases as the model is shown them."""
        shown = x * call.input_scale
        return shown if self.guidance is None else jnp.concatenate([shown, shown])

    def _predicted(
        self, output: Float[Array, "_ H W O"], x: Float[Array, "B H W C"], call: Calls
    ) -> Predicted:
        """The model's output, behind guidance."""
        output, kind = output.astype(jnp.float32), self.sampler.prediction
        if self.guidance is None:
            return Predicted(output, x, call.alpha, call.sigma, kind)
        conditional, unconditional = jnp.split(output, 2)
        outputs = Outputs(conditional, unconditional, x, call.alpha, call.sigma, kind)
        return self.guidance(outputs, call.guidance)


register_dataclass(Denoise, ["guidance", "cache"], ["sampler", "steps"])


def _narrow(table: Any) -> np.ndarray:
    """A table in the widths of the device."""
    table = np.asarray(table)
    narrow = {"f": np.float32, "i": np.int32, "b": np.bool_}
    return table.astype(narrow[table.dtype.kind])


@bounded_jit(static_argnames=("denoiser",))
def whole_run(policy: Denoise, params: Params, asked: Asked, tables: Tables, *, denoiser: Denoiser) -> Run:
    """The program of a whole run."""
    carry = _begin(policy, params, asked, tables, denoiser)
    carry, blocks = _go_on(policy, params, asked, tables, carry, denoiser)
    return Run(carry.x, blocks, carry.broken)


@bounded_jit(static_argnames=("denoiser",))
def first_carry(
    policy: Denoise, params: Params, asked: Asked, tables: Tables, *, denoiser: Denoiser
) -> Carry:
    """The program of a run's beginning."""
    return _begin(policy, params, asked, tables, denoiser)


@bounded_jit(static_argnames=("denoiser",))
def further_calls(
    policy: Denoise, params: Params, asked: Asked, tables: Tables, carry: Carry, *, denoiser: Denoiser
) -> tuple[Carry, Float[Array, "N"]]:
    """The program of some calls."""
    return _go_on(policy, params, asked, tables, carry, denoiser)


def _begin(policy: Denoise, params: Params, asked: Asked, tables: Tables, denoiser: Denoiser) -> Carry:
    """The carry in front of the first of these calls."""
    x = asked.noise.first() * tables.start
    call: Calls = jax.tree.map(lambda rows: rows[0], tables.calls)
    shown = policy._shown(x, call)
    given = denoiser.read(params, policy._condition(asked))
    made = denoiser.conditions(params, _of_rows(call.times, len(shown)), given)
    kept = policy.cache.begin(Step(params, shown, given, made, denoiser, policy.guidance is not None))
    return Carry(x, policy.sampler.begin(x), kept, jnp.int32(-1))


def _go_on(
    policy: Denoise, params: Params, asked: Asked, tables: Tables, carry: Carry, denoiser: Denoiser
) -> tuple[Carry, Float[Array, "N"]]:
    """The carry behind these calls, and the blocks that each computed."""
    given = denoiser.read(params, policy._condition(asked))
    batch = asked.noise.shape[0] * (1 if policy.guidance is None else 2)
    made = jax.vmap(lambda t: denoiser.conditions(params, _of_rows(t, batch), given))(tables.calls.times)

    def one(carry: Carry, row: tuple[Calls, Any]) -> tuple[Carry, Float[Array, ""]]:
        call, made = row
        shown = policy._shown(carry.x, call)
        step = Step(params, shown, given, made, denoiser, policy.guidance is not None)
        output, kept, blocks = policy.cache.denoise(step, call.cache, carry.kept)
        predicted = policy._predicted(output, carry.x, call)
        noise = asked.noise.fresh(call.number) if tables.draws else None
        x, memory = policy.sampler.step(predicted, call.sampler, carry.memory, noise)
        is_first = (carry.broken < 0) & ~jnp.isfinite(x).all()
        broken = jnp.where(is_first, call.number, carry.broken)
        return Carry(x.astype(jnp.float32), memory, kept, broken), blocks

    return lax.scan(one, carry, (tables.calls, made))


def _of_rows(time: Float[Array, ""] | Float[Array, "2"], batch: int) -> Float[Array, "B ..."]:
    """A call's time for each row of a batch."""
    return jnp.broadcast_to(time, (batch, *time.shape))
