"""Groups of processes on this machine, which run one program on the devices of all."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import jaxmodels as jm
from jaxmodels.models.families import config_from_hf
from jaxmodels.tpu_configs.hosts import LOST_ANOTHER
from jaxmodels.training.loop import train
from jaxmodels.training.metrics import read_metrics
from jaxmodels.training.optimizer import WarmupCosine
from jaxmodels.training.recipe import Recipe, save_recipe

# Processes wait for each other, so that these take their time; gloo gives up on one that is 30 s late.
pytestmark = [pytest.mark.sweep, pytest.mark.xdist_group("processes")]
SCRIPT = Path(__file__).parent / "one_of_several.py"
MODEL = {
    "model_type": "bamba",
    "vocab_size": 280,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "attn_layer_indices": [1],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 2,
}


class Ended(NamedTuple):
    """A process that has ended: its status, the objects that it printed by what they are, what it told."""

    status: int
    printed: dict
    told: str


def group(count, devices, *arguments):
    """Runs as many processes, each with as many devices, until all have ended."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags,
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(count),
    }
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    running = [
        subprocess.Popen(
            command,
            env=environment | {"JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    ended = []
    try:
        for process in running:
            printed, told = process.communicate(timeout=500)
            objects = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
            ended.append(Ended(process.returncode, {k: v for one in objects for k, v in one.items()}, told))
    finally:
        for process in running:
            process.kill()
    return ended


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    directory = tmp_path_factory.mktemp("files")
    for name in ("a.py", "b.py", "held_out.py"):
        lines = [f"def {name[0]}{i}(x, y):\n    return x + {i} * y\n" for i in range(30)]
        (directory / name).write_text("\n\n".join(lines))
    made = Recipe(
        model=MODEL,
        train_files=(str(directory / "[ab].py"),),
        held_out_files=(str(directory / "held_out.py"),),
        schedule=WarmupCosine(peak=0.01, warmup_steps=2, total_steps=6),
        sequence_length=32,
        batch_size=4,
        evaluate_every=6,
        checkpoint_every=2,
        log_every=1,
        evaluation_windows=4,
    )
    path = directory / "recipe.json"
    save_recipe(made, path)
    return made, path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model directory, and what one process generates with it."""
    sys.path.insert(0, str(SCRIPT.parent))
    from one_of_several import PROMPT

    model = jm.init(config_from_hf(MODEL), seed=3)
    directory = tmp_path_factory.mktemp("checkpoint") / "model"
    jm.save(model, directory)
    return directory, model.generate([PROMPT, PROMPT[:17]], max_new_tokens=8).tokens


@pytest.fixture(scope="module")
def killed(recipe, checkpoint, tmp_path_factory):
    """The directory of a run, and a pair of processes of which one was killed behind its step 2."""
    run = tmp_path_factory.mktemp("run")
    return run, group(2, 2, checkpoint[0], run, recipe[1], json.dumps({"data": 2, "tensor": 2}), 2)


@pytest.fixture(scope="module")
def alone(recipe, tmp_path_factory):
    """The losses of the same run in one process."""
    run = tmp_path_factory.mktemp("alone")
    train(recipe[0], run)
    return {record["step"]: record["loss"] for record in read_metrics(run / "metrics.jsonl")}


def test_a_killed_process_makes_the_other_end_and_say_so(killed):
    lost, gone = killed[1]
    assert gone.status == -9
    assert lost.status == LOST_ANOTHER, lost.told
    assert "process 1 of 2 has not been heard of for" in lost.told
    assert "Start all of them again" in lost.told


def test_a_run_goes_on_from_its_checkpoint_on_another_mesh(killed, recipe, alone):
    for process in group(2, 2, "", killed[0], recipe[1], json.dumps({"fsdp": 4}), 0):
        assert process.status == 0, process.told
        assert_losses(process, alone)


def assert_losses(process, alone):
    losses = {int(step): loss for step, loss in process.printed["losses"].items()}
    assert losses.keys() == alone.keys()
    np.testing.assert_allclose(list(losses.values()), list(alone.values()), rtol=1e-4)


def test_processes_that_share_prompts_and_heads_generate_what_one_does(killed, checkpoint):
    for process in killed[1]:
        np.testing.assert_array_equal(process.printed["tokens"], checkpoint[1])


def test_four_processes_do_what_one_does(recipe, checkpoint, alone, tmp_path):
    for process in group(4, 1, checkpoint[0], tmp_path, recipe[1], json.dumps({"data": 2, "sequence": 2}), 0):
        assert process.status == 0, process.told
        np.testing.assert_array_equal(process.printed["tokens"], checkpoint[1])
        assert_losses(process, alone)


def test_where_the_coordinator_is_killed_the_others_end_and_say_so(recipe, tmp_path):
    killed, lost = group(2, 1, "", tmp_path, recipe[1], json.dumps({"data": 2}), 2, 0)
    assert killed.status == -9
    assert lost.status == LOST_ANOTHER, lost.told
    assert "jaxmodels: error: " in lost.told and "Start all of them again" in lost.told
