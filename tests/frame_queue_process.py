"""A video of a queue of blocks on one device and on four, and block by block without a queue's mechanism.

Runs in a process that has four devices. Prints JSON: how far the videos lie from the last, relative to its
largest number, what four devices send for a video, and what a queue that is too short for them is told.
"""

import json
import os
import re
import sys
from collections import Counter
from dataclasses import replace

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from model_helpers import attention, decoder, random_params

from jaxmodels.decoding.diffusion.frame_queue import FrameQueue
from jaxmodels.decoding.diffusion.samplers import FlowEuler
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.window import fresh_window
from jaxmodels.models.block import Stream
from jaxmodels.models.packing import pack, unpack

CONFIG = decoder(*[attention()] * 4)
BLOCK = CONFIG.blocks[0]
QUEUE = FrameQueue(sampler=FlowEuler(), steps=4, context=1)
BLOCKS, FRAMES, PATCHES = 5, 2, 3
SHAPE = (BLOCKS, FRAMES, PATCHES, CONFIG.d_model)
COLLECTIVE = re.compile(r"(all-gather|all-reduce|collective-permute|all-to-all|reduce-scatter)(-start)?\(")


class ToyVideo:
    """A decoder's blocks over frames of vectors as wide as its stream, all of which see one another."""

    def embed(self, ends, frames, time):
        return frames + time / 1000 * ends["time"]

    def layer(self, layer, hidden, seen, time):
        batch, frames, patches, d = hidden.shape
        flat = hidden.reshape(batch, frames * patches, d)
        real = jnp.broadcast_to(jnp.repeat(seen, patches), flat.shape[:2])
        positions = jnp.broadcast_to(jnp.arange(frames * patches), flat.shape[:2])
        window = fresh_window(flat, real, BIDIRECTIONAL, positions=positions, ropes=BLOCK.ropes)
        packed = pack(window, flat)
        stream = BLOCK.forward(layer, Stream(hidden=packed, embedded=packed), window)
        return unpack(window, stream.hidden).reshape(hidden.shape)

    def predict(self, ends, hidden):
        return 0.3 * hidden


def block_by_block(layers, ends, noise):
    """The same schedule with lists: what is not there is not computed, and nothing waits."""
    model, plan = ToyVideo(), QUEUE.sampler.plan(QUEUE.steps, PATCHES)
    sigmas, videos = np.append(plan.sigma, 0.0), list(noise)
    layer = jax.jit(model.layer)
    for sweep in range(BLOCKS + QUEUE.steps - 1):
        kept = None
        for step in range(QUEUE.steps):
            block = sweep - step
            if not 0 <= block < BLOCKS:
                continue
            before = [videos[block - 1][:, -QUEUE.context :]] if block else []
            shown, time = jnp.concatenate([*before, videos[block]], axis=1), plan.times[step]
            hidden, keeping = model.embed(ends, shown, time), []
            for i in range(4):
                own = hidden[:, -FRAMES:]
                keeping.append(own[:, : QUEUE.context])
                whole = jnp.concatenate([hidden, *([kept[i]] if kept else [])], axis=1)
                # Positions count from the frames before, which the first block has not.
                gap = jnp.zeros((whole.shape[0], 0 if block else QUEUE.context, *whole.shape[2:]))
                seen = jnp.arange(gap.shape[1] + whole.shape[1]) >= gap.shape[1]
                found = layer(
                    jax.tree.map(lambda a, i=i: a[i], layers), jnp.concatenate([gap, whole], 1), seen, time
                )
                hidden = found[:, gap.shape[1] : gap.shape[1] + hidden.shape[1]]
            kept = keeping
            output = model.predict(ends, hidden[:, -FRAMES:])
            videos[block] = videos[block] + (sigmas[step + 1] - sigmas[step]) * output
    return jnp.stack(videos)


def far(a, b):
    return float(jnp.abs(a - b).max() / jnp.abs(b).max())


def refusal(call):
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    blocks = random_params(CONFIG.spec())["blocks"]
    layers = jax.tree.map(lambda *a: jnp.stack(a), *(blocks[str(i)] for i in range(4)))
    rng = np.random.default_rng(0)
    ends = {"time": jnp.float32(rng.standard_normal(CONFIG.d_model))}
    keys = jax.random.split(jax.random.key(0), 1)
    noise = QUEUE.noise(keys, SHAPE)
    expected = block_by_block(layers, ends, noise)

    def run(layers, ends, keys):
        return QUEUE.run(ToyVideo(), layers, ends, QUEUE.noise(keys, SHAPE))

    alone = run(layers, ends, keys)
    axes = ("data", "fsdp", "sequence", "expert", "tensor")
    mesh = jax.make_mesh((1, 1, 4, 1, 1), axes, axis_types=(AxisType.Auto,) * len(axes))
    with jax.set_mesh(mesh):
        program = jax.jit(run).lower(layers, ends, keys).compile()
        shared = program(layers, ends, keys)
        text = program.as_text()
        short = refusal(lambda: replace(QUEUE, steps=3).run(ToyVideo(), layers, ends, noise))
    sent = Counter(m[1] for line in text.splitlines() if (m := COLLECTIVE.search(line)))
    distances = {
        "alone": far(alone, expected),
        "shared": far(shared, expected),
        "noise": far(noise, expected),
    }
    json.dump({"distances": distances, "sent": sent, "short": short}, sys.stdout)
