import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.decoding.diffusion.frame_queue import FrameQueue
from jaxmodels.decoding.diffusion.samplers import DDPM, FlowEuler

SCRIPT = Path(__file__).parents[2] / "frame_queue_process.py"


@pytest.fixture(scope="module")
def found():
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.sweep
def test_a_video_is_that_of_the_schedule_on_one_device_and_on_four(found):
    far = found["distances"]
    assert far["alone"] < 1e-5
    assert far["shared"] < 1e-5
    assert far["noise"] > 0.1


def test_one_stream_goes_around_in_each_turn_and_the_video_to_all_at_the_end(found):
    assert found["sent"] == {"collective-permute": 1, "all-reduce": 1}


def test_a_queue_shorter_than_the_row_of_devices_is_refused(found):
    assert "got 3 steps and 4 layers" in found["short"]


def noise_by_lists(key, queue, shape):
    """The same frames of noise in the same orders, block after block."""
    blocks, frames, *frame = shape
    drawn = jax.random.normal(jax.random.fold_in(key, 0), (queue.context + frames, *frame))
    pool, noise = list(np.asarray(drawn)), []
    for block in range(blocks):
        order = jax.random.permutation(jax.random.fold_in(key, 1 + block), frames)
        pool = [*pool[-queue.context :], *(pool[i] for i in order)]
        noise.append(pool[-frames:])
    return np.array(noise)


def test_blocks_share_their_noise_and_no_frame_that_a_block_is_shown_has_that_of_another():
    queue, keys = FrameQueue(sampler=FlowEuler(), steps=4, context=2), jax.random.split(jax.random.key(3), 2)
    shape = (6, 5, 2, 3)
    noise = np.asarray(queue.noise(keys, shape))
    for row, key in enumerate(keys):
        np.testing.assert_array_equal(noise[:, row], noise_by_lists(key, queue, shape))
        seen = [frame.tobytes() for frame in noise[:, row].reshape(30, 6)]
        assert len(set(seen)) == 7
        assert all(len(set(seen[begin - 2 : begin + 5])) == 7 for begin in range(5, 30, 5))
    assert not np.array_equal(noise[0, 0], noise[0, 1])


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((2, 1, 2, 3), "blocks have 1 frames, but context=2"),
        ((2, 4, 0, 3), "patches must be .* got 0"),
    ],
)
def test_noise_of_another_shape_is_refused(shape, told):
    queue = FrameQueue(sampler=FlowEuler(), steps=4, context=2)
    with pytest.raises(ValueError, match=told):
        queue.noise(jax.random.split(jax.random.key(0), 1), shape)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"context": 3}, "blocks have 2 frames, but context=3"),
        ({"sampler": DDPM()}, "remembers earlier steps or draws noise"),
    ],
)
def test_what_a_queue_cannot_do_is_refused(options, told):
    queue = FrameQueue(**{"sampler": FlowEuler(), "steps": 4, "context": 1, **options})
    with pytest.raises(ValueError, match=told):
        queue.run(None, {"w": jnp.zeros((4, 2))}, {}, jnp.zeros((5, 1, 2, 3, 8)))
