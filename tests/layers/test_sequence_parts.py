import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.sweep
SCRIPT = Path(__file__).parents[1] / "sequence_parts_process.py"


@pytest.fixture(scope="module")
def found():
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("model", ["attention", "recurrent", "other"])
def test_devices_that_share_windows_find_what_one_finds(found, model):
    differences = found["differences"][model]
    assert any("first" in path for path in differences) and any("cache" in path for path in differences)
    assert {path: far for path, far in differences.items() if not far < 1e-5} == {}


@pytest.mark.parametrize("denoiser", ["SD3Transformer2DModel", "SanaTransformer2DModel"])
def test_devices_that_share_a_canvas_predict_what_one_predicts(found, denoiser):
    assert found["differences"][denoiser]["['prediction']"] < 1e-5


def test_frames_that_devices_share_become_the_video_of_one_device(found):
    assert found["differences"]["video"]["['video']"] < 1e-5


def test_a_run_of_denoising_is_that_of_one_device(found):
    assert found["differences"]["run"]["['latents']"] < 1e-5


@pytest.mark.parametrize(
    ("mixer", "sent"),
    [
        # Keys and values go to all devices, once; one sum finds the row whose logits are asked for.
        ("attention", {"all-gather": 2, "all-reduce": 1}),
        # A state passes three times; x, and B with C, have each a tail that all hand over at once.
        ("ssd", {"collective-permute": 3 + 2, "all-reduce": 1}),
        # The same with tails of queries, keys and values.
        ("delta", {"collective-permute": 3 + 3, "all-reduce": 1}),
        ("mamba", {"collective-permute": 3 + 1, "all-reduce": 1}),
    ],
)
def test_each_device_computes_its_own_tokens(found, mixer, sent):
    """On four devices; a recurrence is summed up before it is computed, which costs a part of it again."""
    cost = found["costs"][mixer]
    assert cost["share"] < 0.35
    assert cost["sent"] == sent
