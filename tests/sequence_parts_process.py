"""Windows and canvases split over four devices beside the same on one, in a process that has four.

Prints JSON.

For each model the largest differences, relative to the largest number, by what differs: what its blocks make
of two windows and what its layers keep of them. For each kind of mixer what a device computes, and what it is
sent, for one window.
"""

import json
import os
import re
import sys
from collections import Counter

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import jax.numpy as jnp
import numpy as np
from denoiser_models import condition_of, times_of
from diffusion_models import denoiser_of
from jax.sharding import AxisType
from model_helpers import (
    attention,
    decoder,
    delta,
    draw_tokens,
    latent,
    lightning,
    mamba,
    quick_jit,
    random_params,
    rglru,
    short_conv,
    ssd,
)

from jaxmodels.decoding.diffusion.driver import Asked, Denoise
from jaxmodels.decoding.diffusion.guidance import CFG
from jaxmodels.decoding.diffusion.noise import Injected
from jaxmodels.decoding.diffusion.samplers import DDIM
from jaxmodels.layers.dual_scope_mask import DualScope

MODELS = {
    "attention": decoder(attention(), attention(sliding_window=20, sink_logits=True), latent()),
    "recurrent": decoder(ssd(), mamba(), delta(), rglru()),
    "other": decoder(delta(decay_rank=3, num_key_heads=4, conv_width=3), short_conv(), lightning()),
}
DENOISERS = ("SD3Transformer2DModel", "SanaTransformer2DModel")
COSTED = {"attention": attention(), "ssd": ssd(), "delta": delta(), "mamba": mamba()}
WINDOW = 32  # tokens, eight for each device
COLLECTIVE = re.compile(r"(all-gather|all-reduce|collective-permute|all-to-all|reduce-scatter)(-start)?\(")


def mesh():
    axes = ("data", "fsdp", "sequence", "expert", "tensor")
    return jax.make_mesh((1, 1, 4, 1, 1), axes, axis_types=(AxisType.Auto,) * len(axes))


def differences(config):
    """The first row fills its first window, the second row does not; the second window follows both."""
    taps = tuple(f"blocks/{i}" for i in range(len(config.blocks)))

    def windows(params, tokens, lengths, cache):
        first, pending = config.peek(params, tokens[:, :WINDOW], cache, valid=lengths, taps=taps)
        second, pending = config.peek(params, tokens[:, WINDOW:], config.commit(pending), taps=taps)
        is_real = (jnp.arange(WINDOW) < lengths[:, None])[..., None]
        taps_of_first = jax.tree.map(lambda a: jnp.where(is_real, a, 0), first.taps)
        return {"first": taps_of_first, "second": second.taps, "cache": config.commit(pending).layers}

    lengths = jnp.asarray([WINDOW, WINDOW - 13])
    arguments = random_params(config.spec()), draw_tokens(2, 2 * WINDOW), lengths
    return farthest(windows, *arguments, config.init_cache(2, 80))


def differences_of_denoiser(name):
    """Of one step, for two canvases of 8 x 8 patches."""
    config, params = denoiser_of(name)
    size = 8 * config.projections.patch
    canvases = np.random.default_rng(0).standard_normal((2, size, size, config.projections.in_channels))

    def step(params, x, t, condition):
        return {"prediction": config.denoise(params, x, t, condition).prediction}

    return farthest(step, params, jnp.float32(canvases), times_of(name, 0.3, 0.7), condition_of(name))


def differences_of_video():
    """Of three steps for a video of 16 frames of four tokens, by a decoder that was given the mask of one."""
    config = decoder(attention(), attention(rope=None))
    params = random_params(config.spec())
    noise = jnp.float32(np.random.default_rng(0).standard_normal((1, 64, config.d_model)))
    mask = DualScope(tokens=4, near=1, every=8)

    def run(params, video):
        for _ in range(3):
            scored = config.forward_scored(params, video, mask=mask, logits_at=jnp.zeros((1, 1), jnp.int32))
            video = video - 0.3 * scored.hidden
        return {"video": video}

    return farthest(run, params, noise)


def differences_of_run(name):
    """Of a run of three steps with guidance, from the same noise."""
    config, params = denoiser_of(name, out_channels=8)
    canvas = (2, 8 * config.projections.patch, 8 * config.projections.patch, config.projections.in_channels)
    noise = Injected(jnp.float32(np.random.default_rng(0).standard_normal(canvas)))
    policy = Denoise(sampler=DDIM(), steps=3, guidance=CFG(2.0))

    def run(params):
        return policy.run(config, params, Asked(noise, jnp.asarray([3, 7]), jnp.asarray([1000, 1000])))

    expected = run(params)
    with jax.set_mesh(mesh()):
        ours = run(params)
    return apart({"latents": ours.latents}, {"latents": expected.latents})


def farthest(function, *arguments):
    expected = quick_jit(function)(*arguments)
    with jax.set_mesh(mesh()):
        ours = quick_jit(function)(*arguments)
    return apart(ours, expected)


def apart(ours, expected):
    """How far each array lies from the other, by its path."""

    def far(a, b):
        a, b = np.asarray(a), np.asarray(b)
        return float(np.abs(a - b).max() / max(1, np.abs(b).max()))

    far = jax.tree.map(far, ours, expected)
    return {jax.tree_util.keystr(path): value for path, value in jax.tree_util.tree_leaves_with_path(far)}


def cost(mixer, size=128):
    """A device's share of the FLOPs of one layer's window, and how many arrays are sent, by their kind."""
    config = decoder(mixer)

    def window(params, tokens, cache):
        scored, pending = config.peek(params, tokens, cache, logits_at=jnp.zeros((2, 1), jnp.int32))
        return scored.logits, config.commit(pending)

    arguments = random_params(config.spec()), draw_tokens(2, size), config.init_cache(2, size)
    program = jax.jit(window)
    alone = program.lower(*arguments).compile()
    with jax.set_mesh(mesh()):
        shared = program.lower(*arguments).compile()
    sent = Counter(
        match[1]
        for line in shared.as_text().splitlines()
        if " f32[" in line and (match := COLLECTIVE.search(line))
    )
    share = shared.cost_analysis()["flops"] / alone.cost_analysis()["flops"]
    return {"share": share, "sent": sent}


if __name__ == "__main__":
    found = {
        "differences": {
            **{name: differences(config) for name, config in MODELS.items()},
            **{name: differences_of_denoiser(name) for name in DENOISERS},
            "video": differences_of_video(),
            "run": differences_of_run("DiTTransformer2DModel"),
        },
        "costs": {name: cost(mixer) for name, mixer in COSTED.items()},
    }
    json.dump(found, sys.stdout)
