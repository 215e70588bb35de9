import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
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


def test_a_video_is_that_of_the_schedule_on_one_device_and_on_four(found):
    far = found["distances"]
    assert far["alone"] < 1e-5
    assert far["shared"] < 1e-5
    assert far["noise"] > 0.1


def test_one_stream_goes_around_in_each_turn_and_the_video_to_all_at_the_end(found):
    assert found["sent"] == {"collective-permute": 1, "all-reduce": 1}


def test_a_queue_shorter_than_the_row_of_devices_is_refused(found):
    assert "got 3 steps and 4 layers" in found["short"]


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
