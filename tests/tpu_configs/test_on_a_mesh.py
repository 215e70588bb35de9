"""Models on eight virtual devices: the numbers and tokens of one device, and what is sent between them."""

import functools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mesh_models import D_MODEL, DECODERS, MIXED, WIDE_DENOISERS, WIDE_SCALES

from jaxmodels.layers.host_memory import MEMORY_KIND

PROCESS = Path(__file__).parents[1] / "mesh_process.py"
TOLERANCE = 1e-5  # of float32, relative to the largest logit
FEW_BITS = ("few-bits-transformer", "few-bits-experts")
DRAWN = ("drawn-tiny-dit", "drawn-tiny-tarflow", "drawn-tiny-maskgit", "drawn-tiny-var")
# Each is a process: what is checked in every run of the tests, and in the sweep.
FEW = ("transformer", "recurrent", "experts", "loaded")
MORE = ("speculative", "masked", "trained", "host-experts", DRAWN[0])


def run(*names):
    """What the process finds of these checks."""
    finished = process(*names)
    assert not finished.returncode, finished.stderr[-3000:]
    return json.loads(finished.stdout)


@functools.cache
def process(*names):
    path = os.pathsep.join(map(str, (PROCESS.parent, PROCESS.parents[1], os.environ.get("PYTHONPATH", ""))))
    return subprocess.run(
        [sys.executable, PROCESS, *names],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def few(name):
    return run(*FEW)[name]


def more(name):
    return run(*MORE)[name]


def sums_of_streams(collectives):
    """How many all-reduces add up what the residual stream is given."""
    return sum(name == "all-reduce" and shapes[0][-1:] == [D_MODEL] for name, shapes in collectives)


def count(collectives, name):
    return sum(name == other for other, _ in collectives)


def elements(shapes):
    return sum(math.prod(shape) for shape in shapes)


@pytest.mark.parametrize("name", ["transformer", "recurrent", "experts"])
class TestMixedModels:
    def test_logits(self, name):
        assert few(name)["forward"]["error"] < TOLERANCE

    def test_tokens(self, name):
        assert few(name)["generate"] == {"autoregressive": True}

    def test_caches_stay_where_they_are(self, name):
        assert few(name)["steps"]["keeps_its_place"]


@pytest.mark.parametrize("name", ["transformer", "recurrent"])
class TestSharedLayers:
    def test_one_sum_for_each_mixer_and_feed_forward_and_one_for_the_embedding(self, name):
        for part in ("forward", "steps"):
            found = few(name)[part]["collectives"]
            parts = [(block.mixer, block.ffn) for block in MIXED[name].blocks]
            assert sums_of_streams(found) == 1 + sum(part is not None for block in parts for part in block)

    def test_nothing_but_the_best_logits_is_gathered(self, name):
        gathered = [shapes for op, shapes in few(name)["steps"]["collectives"] if op != "all-reduce"]
        assert gathered == [[[2, 8]], [[2, 8]]]  # of two rows the best of each device, and where it is


def test_what_else_recurrent_layers_add_up():
    """The norms of Mamba-2 and of lightning attention see all features; Mamba's B, C and dt come from all."""
    found = few("recurrent")["steps"]["collectives"]
    others = [shapes for op, shapes in found if op == "all-reduce" and shapes[0][-1:] != [D_MODEL]]
    assert len(others) == 4  # one more for the greatest logit
    assert all(elements(shapes) <= 2 * (2 * 5 + 3) for shapes in others)


def test_one_exchange_each_way_for_each_layer_of_experts():
    for part in ("forward", "steps"):
        assert count(few("experts")[part]["collectives"], "all-to-all") == 2 * len(MIXED["experts"].blocks)


def test_no_experts_are_gathered():
    """What is gathered is smaller than one projection of the experts that one device has."""
    one_projection = 8 // 4 * D_MODEL * (16 // 2)
    gathered = [shapes for op, shapes in few("experts")["steps"]["collectives"] if op == "all-gather"]
    assert gathered and all(elements(shapes) < one_projection for shapes in gathered)


def test_what_routers_chose_is_told_in_one_gather_for_each_layer():
    slots = MIXED["experts"].blocks[0].ffn.router.top_k
    found = few("experts")["forward"]["collectives"]
    told = [shapes for op, shapes in found if op == "all-gather" and shapes[0][-1] in (slots, 2 * slots)]
    assert [shapes[0][-1] for shapes in told] == [2 * slots] * len(MIXED["experts"].blocks)


@pytest.mark.sweep
def test_experts_in_host_memory():
    found = more("host-experts")
    assert all(found[bits]["memory"] == {MEMORY_KIND: False} for bits in ("arrays", "int8"))
    assert all(found[bits]["error"] < TOLERANCE for bits in ("arrays", "int8"))


@pytest.mark.sweep
def test_drafted_tokens():
    assert more("speculative") == {"draft": True}


@pytest.mark.sweep
def test_masked_tokens():
    assert more("masked") == {"masked": True}


def test_a_checkpoint_is_read_in_slices_and_written_whole():
    found = few("loaded")
    assert {"w_q", "w_o", "w_x", "w_out", "w_up", "weight"} <= set(found["cut"])
    assert not {"w_q", "w_o", "w_x", "w_out", "w_up", "weight"} & set(found["whole"])
    assert found["copy"] and found["again"]


@pytest.mark.sweep
def test_a_training_step():
    found = more("trained")
    assert found["loss"] < TOLERANCE and found["params"] < TOLERANCE
    assert found["cut"] == ["tensor", "fsdp"]


def check_pictures(found):
    assert found["arrays"] < TOLERANCE and found["int8"] < TOLERANCE
    assert found["cut"] > 0.4


@pytest.mark.sweep
def test_pictures():
    check_pictures(more(DRAWN[0]))


@pytest.mark.sweep
@pytest.mark.parametrize("name", DRAWN[1:])
def test_pictures_of_other_kinds_of_models(name):
    check_pictures(run(*DRAWN[1:])[name])


IMAGES = [
    *(f"denoiser-{name}" for name in WIDE_DENOISERS),
    "flow-of-images",
    *(f"scales-{name}" for name in WIDE_SCALES),
]


@pytest.mark.sweep
@pytest.mark.parametrize("name", IMAGES)
def test_every_family_of_models_of_images(name):
    found = run(*IMAGES)[name]
    assert found["arrays"] < TOLERANCE and found["int8"] < TOLERANCE


SINGLE = [
    *(f"tensor-{name}" for name in DECODERS),
    *(f"expert-{name}" for name in DECODERS if name.startswith("ffn-")),
    "few-rows-experts",
]


@pytest.mark.sweep
@pytest.mark.parametrize("name", SINGLE)
def test_each_kind_of_layer(name):
    assert run(*SINGLE)[name]["error"] < TOLERANCE


@pytest.mark.sweep
@pytest.mark.parametrize("name", FEW_BITS)
def test_weights_in_few_bits(name):
    found = run(*FEW_BITS)[name]
    assert found["error"] < TOLERANCE and found["generate"]


@pytest.mark.sweep
def test_rows_and_parameters_spread_too():
    found = run("hybrid-spread")["hybrid-spread"]
    assert found["forward"]["error"] < TOLERANCE
    assert found["generate"] == {"autoregressive": True}
    assert found["steps"]["keeps_its_place"]
