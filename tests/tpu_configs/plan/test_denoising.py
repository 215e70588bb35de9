"""Plans of denoisers against sizes that real shardings give, and what is known of models."""

import json
import math
from dataclasses import replace

import pytest
from jax.sharding import AbstractMesh, AxisType
from published_configs import DIRECTORY

from jaxmodels.layers.partition import MESH_AXES
from jaxmodels.layers.spec import walk
from jaxmodels.models.denoisers.families import denoiser_from_config
from jaxmodels.tpu_configs.denoisers import DenoiserWorkload
from jaxmodels.tpu_configs.plan.compiled_denoiser import few_blocks
from jaxmodels.tpu_configs.plan.denoising import plan_denoiser
from jaxmodels.tpu_configs.rules import DEFAULT_RULES
from jaxmodels.tpu_configs.shardings import bytes_per_device, param_shardings
from jaxmodels.tpu_configs.slices import find_slice

PIPELINES = DIRECTORY / "diffusers"
FLUX, SD3 = "FLUX.1-dev", "stable-diffusion-3-medium"
WORK = DenoiserWorkload(text=512, canvases=1, steps=28)


def denoiser(name):
    return denoiser_from_config(json.loads((PIPELINES / name / "transformer" / "config.json").read_text()))


def planned(name, on, workload=WORK, **options):
    return plan_denoiser(denoiser(name), find_slice(on), workload, **options)


@pytest.mark.parametrize(
    ("name", "on", "sizes"),
    [
        (FLUX, "v6e-8", {"tensor": 8}),
        (FLUX, "v5e-8", {"data": 2, "tensor": 4}),
        (SD3, "v5e-8", {"fsdp": 8}),
    ],
)
def test_parameters_are_those_of_the_arrays_as_they_are_sharded(name, on, sizes):
    mesh = AbstractMesh(
        tuple(sizes.get(axis, 1) for axis in MESH_AXES), MESH_AXES, axis_types=(AxisType.Auto,) * 5
    )
    model = denoiser(name)
    expected = bytes_per_device(model.spec(), param_shardings(model, mesh, DEFAULT_RULES), "bfloat16")
    assert planned(name, on, sizes=sizes).memory.parameters == expected


def test_times_of_one_chip_are_costs_over_peaks():
    model, chip = denoiser(FLUX), find_slice("v6e-1").chip
    found = planned(FLUX, "v6e-1")
    scalars = sum(math.prod(it.shape) for _, it in walk(model.spec()))
    assert found.memory.parameters == found.step.read == pytest.approx(2 * scalars, rel=1e-3)
    assert found.step.flops == model.flops(128, 128, 512) and found.step.bound == "arithmetic"
    assert found.seconds == pytest.approx(28 * found.step.flops / chip.peak("bfloat16"))


def test_guidance_doubles_the_canvases():
    once, twice = (planned(SD3, "v6e-1", replace(WORK, canvases=count)) for count in (1, 2))
    assert twice.step.flops == 2 * once.step.flops
    assert twice.memory.run.working == 2 * once.memory.run.working
    assert twice.memory.parameters == once.memory.parameters


def test_devices_share_heads_or_canvases():
    alone, heads, canvases = (
        planned(SD3, on, replace(WORK, batch=4, canvases=2), sizes=sizes)
        for on, sizes in (("v6e-1", None), ("v6e-4", {"tensor": 4}), ("v6e-4", {"data": 4}))
    )
    assert heads.step.flops == canvases.step.flops == alone.step.flops / 4
    assert canvases.step.exchanged == 0 and canvases.memory.parameters == alone.memory.parameters
    # Two sums behind each of 24 blocks, of 8 canvases of 4,096 patches and a text of 512, 1,536 wide.
    assert heads.step.exchanged == 48 * 8 * 4608 * 1536 * 2 * 2 * 3 / 4
    assert heads.memory.parameters < 0.6 * alone.memory.parameters


def test_what_does_not_fit_is_told_with_what_would():
    found = planned(FLUX, "v5e-1")
    assert not found.memory.fits and found.memory.missing > 0
    held = {line.split()[1] for line in found.advice if line.startswith("--slice")}
    assert "v5e-4" in held and planned(FLUX, "v5e-4").memory.fits
    many = planned(SD3, "v5e-1", replace(WORK, batch=1000))
    (batch,) = (int(line.split()[1]) for line in many.advice if line.startswith("--batch"))
    assert planned(SD3, "v5e-1", replace(WORK, batch=batch)).memory.fits


def test_few_blocks_stand_for_all():
    flux = few_blocks(denoiser(FLUX))
    assert [len(model.named_blocks()) for model in flux.models] == [2, 3, 3]
    assert [times for _, times in flux.deeper] == [18, 37]
    # The last of its blocks ends the context, and is one of its kind.
    sd3 = few_blocks(denoiser(SD3))
    assert [len(model.named_blocks()) for model in sd3.models] == [2, 3]
    assert [times for _, times in sd3.deeper] == [22]
    # Ends cost 100, blocks of the two kinds 7 and 5.
    assert flux.extrapolated([112, 119, 117]) == 100 + 19 * 7 + 38 * 5


def test_meshes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="tensor=4 has 4 devices, and v6e-8 has 8"):
        planned(FLUX, "v6e-8", sizes={"tensor": 4})
    with pytest.raises(ValueError, match="which mesh axis 'tensor' of size 16 does not divide"):
        planned(FLUX, "v6e-16", sizes={"tensor": 16})
