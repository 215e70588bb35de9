"""Runs of caches of denoising steps over given canvases, and the same in `diffusers` with its hooks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch
from denoiser_models import CONFIGS, condition_of
from diffusers import FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers_modules import draw, randomised
from model_helpers import quick_jit, random_params

from jaxmodels.checkpoints.diffusers import load_denoiser
from jaxmodels.decoding.diffusion.caches.cache import NoCache, Step
from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.models.denoisers.families import denoiser_from_config
from jaxmodels.models.denoisers.text import Text

FLUX = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 3,
    "joint_attention_dim": 10,
    "pooled_projection_dim": 14,
    "axes_dims_rope": (2, 2, 4),
}


def plan_at(times, sigma=None):
    """The plan of a run whose model is shown these times; of a flow where it is told no levels of noise."""
    times = np.asarray(times, np.float64)
    sigma = times / max(1.0, times.max()) if sigma is None else np.asarray(sigma, np.float64)
    ones = np.ones(len(times))
    return Plan(times=times, input_scale=ones, alpha=1 - sigma, sigma=sigma, rows=None, start=ones[0])


def canvases(steps, batch=2, height=8, width=8, channels=4, drift=0.15, seed=0):
    """f32[N, B, H, W, C], canvases that change little by little, now more and now less."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, height, width, channels))
    changes = [
        drift * (0.2 + rng.random() ** 2) * rng.standard_normal(x.shape) if i else np.zeros(x.shape)
        for i in range(steps)
    ]
    return (x + np.cumsum(changes, axis=0)).astype(np.float32)


@functools.partial(quick_jit, static_argnames=("config", "guided"))
def _scan(config, params, cache, xs, times, condition, rows, guided):
    given = config.read(params, condition)
    batch = xs.shape[1]

    def step_at(x, time):
        made = config.conditions(params, jnp.full(batch, time), given)
        return Step(params, x, given, made, config, guided)

    def body(state, now):
        x, time, row = now
        prediction, state, blocks = cache.denoise(step_at(x, time), row, state)
        return state, (prediction, blocks)

    state = cache.begin(step_at(xs[0], times[0]))
    return jax.lax.scan(body, state, (xs, times, rows))


def run(cache, config, params, xs, plan, condition, guided=False):
    """(predictions [N, B, H, W, C], blocks computed [N], what is kept at the end)"""
    rows = cache.rows(config, plan)
    times = jnp.asarray(plan.times, jnp.float32)
    state, (predictions, blocks) = _scan(
        config, params, cache, jnp.asarray(xs), times, condition, rows, guided
    )
    return np.asarray(predictions), np.asarray(blocks), state


def programs():
    """How many programs `run` has compiled."""
    return _scan._cache_size()


def tiny(name, **changes):
    """(config, params, condition of two rows) of a family, see `denoiser_models`."""
    config = denoiser_from_config({"_class_name": name, **CONFIGS[name], **changes})
    return config, random_params(config.spec()), condition_of(name)


def full(config, params, xs, plan, condition):
    """Predictions of all steps, computed."""
    return run(NoCache(), config, params, xs, plan, condition)[0]


class FluxPair:
    """A tiny Flux of `diffusers`, ours with its weights, and a run of canvases that both are shown."""

    def __init__(self, directory, steps=12):
        self.theirs = randomised(FluxTransformer2DModel(**FLUX))
        self.theirs.save_pretrained(directory)
        self.config, self.params = load_denoiser(directory)
        self.plan = plan_at(np.linspace(1, 0.05, steps))
        self.xs = canvases(steps, batch=1, height=6, width=8)
        (tokens, self._tokens), (pooled, self._pooled) = draw(1, 5, 10, seed=1), draw(1, 14, seed=2)
        self.text = Text(tokens=tokens, pooled=pooled)
        self.step = 0

    def ours(self, cache):
        """(predictions [N, B, H, W, C], blocks computed [N])"""
        return run(cache, self.config, self.params, self.xs, self.plan, self.text)[:2]

    def of_diffusers(self, cache):
        """(predictions of `diffusers` with this configuration, attentions computed [N])"""
        calls = []
        blocks = [*self.theirs.transformer_blocks, *self.theirs.single_transformer_blocks]
        counters = [
            block.attn.to_q.register_forward_hook(lambda *_: calls.append(self.step)) for block in blocks
        ]
        self.theirs.enable_cache(cache)
        try:
            predictions = [self._call(i) for i in range(self.plan.calls)]
        finally:
            self.theirs.disable_cache()
            for counter in counters:
                counter.remove()
        return np.stack(predictions), np.bincount(calls, minlength=self.plan.calls)

    def canvas(self):
        """[B, C, H, W], the canvas of the step that `diffusers` is at."""
        return torch.tensor(self.xs[self.step]).movedim(-1, 1)

    def time(self):
        """The time of the step that `diffusers` is at."""
        return float(self.plan.times[self.step])

    def _call(self, step):
        self.step = step
        x = self.canvas()
        batch, channels, height, width = x.shape
        where = {"step_index": step, "sigma": self.time(), "num_inference_steps": self.plan.calls}
        with torch.no_grad(), self.theirs.cache_context("cond", **where):
            found = self.theirs(
                hidden_states=FluxPipeline._pack_latents(x, batch, channels, height, width),
                encoder_hidden_states=self._tokens,
                pooled_projections=self._pooled,
                timestep=torch.full((batch,), self.time()),
                img_ids=FluxPipeline._prepare_latent_image_ids(
                    batch, height // 2, width // 2, "cpu", torch.float32
                ),
                txt_ids=torch.zeros(self._tokens.shape[1], 3),
            ).sample
        return FluxPipeline._unpack_latents(found, height * 8, width * 8, 8).movedim(1, -1).numpy()


# The stages of a step, compiled, for rules in plain Python.
embedded, through, finished = (
    quick_jit(Step.embed),
    quick_jit(Step.run, static_argnums=2),
    quick_jit(Step.finish),
)


def by_hand(config, params, xs, plan, condition, rule):
    """The predictions of a rule in plain Python: rule(number, step) -> prediction, step by step."""
    given = quick_jit(config.read)(params, condition)
    conditions, predictions = quick_jit(config.conditions), []
    for i, x in enumerate(xs):
        made = conditions(params, np.full(x.shape[0], plan.times[i], np.float32), given)
        predictions.append(np.asarray(rule(i, Step(params, jnp.asarray(x), given, made, config))))
    return np.stack(predictions)


@dataclasses.dataclass(frozen=True, eq=False)
class GivenCanvases:
    """A `Sampler` whose canvases are given beforehand, whatever is predicted."""

    times: np.ndarray
    xs: np.ndarray
    prediction: Prediction = Prediction.FLOW

    def plan(self, steps, tokens=0):
        following = np.concatenate([self.xs[1:], self.xs[-1:]])
        return dataclasses.replace(plan_at(self.times), rows=following)

    def begin(self, x):
        return ()

    def step(self, predicted, row, memory, noise):
        return row, memory
