"""One step and the whole loop of every denoiser: traced from shapes alone, and through the TPU compiler."""

import json

import jax
import pytest
from aot_process import COMPILING, needs_libtpu, run_aot
from denoiser_models import CONFIGS, by_tier
from tpu_model_configs import TOPOLOGIES

from jaxmodels.models.denoisers.families import denoiser_from_config
from jaxmodels.tpu_configs import aot
from jaxmodels.tpu_configs.compiler import ENVIRONMENT
from jaxmodels.tpu_configs.denoisers import DENOISER_PROGRAMS, DenoiserWorkload, trace_denoiser

pytestmark = [pytest.mark.xdist_group("aot"), pytest.mark.timeout(COMPILING)]

# In sizes that fill TPU tiles.
FILLING = {"_class_name": "DiT", "hidden_size": 128, "num_heads": 2, "depth": 2, "input_size": 32}
TEXTS = {"model_type": "mamba2"}
SIZES = ("--batch", 2, "--prompt", 8, "--steps", 4)


def denoiser(name):
    return denoiser_from_config({"_class_name": name, **CONFIGS[name]})


def compiled(directory, values, topology, *arguments):
    """(class, topology, program) -> report"""
    for each in values:
        (directory / f"{each['_class_name']}.json").write_text(json.dumps(each))
    files = [directory / f"{each['_class_name']}.json" for each in values]
    done = run_aot("--config", *files, "--topology", topology, *SIZES, "--json", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    names = {str(file): each["_class_name"] for file, each in zip(files, values, strict=True)}
    return {(names[it["config"]], it["topology"], it["program"]): it for it in reports}


def assert_sound(report):
    assert report["argument_bytes"] >= report["param_bytes"] > 0
    assert report["temp_bytes"] >= 0 and report["device_bytes"] > report["argument_bytes"]
    assert report["flops"] > 0 and report["bytes_accessed"] >= report["param_bytes"]
    assert not report["host_transfers"]


@needs_libtpu
@pytest.mark.parametrize(
    "topology", [TOPOLOGIES[0], *(pytest.param(name, marks=pytest.mark.sweep) for name in TOPOLOGIES[1:])]
)
def test_the_tpu_compiler_takes_step_and_loop_and_counts_their_products(tmp_path, topology):
    reports = compiled(tmp_path, [FILLING], topology)
    assert len(reports) == len(DENOISER_PROGRAMS)
    needed = 4 * denoiser_from_config(FILLING).flops(32, 32)  # of two images, each under two conditions
    for (_, _, program), report in reports.items():
        assert_sound(report)
        assert report["workload"] == {
            "batch": 2, "side": None, "text": 8, "steps": 4, "canvases": 2, "dtype": "bfloat16"
        }  # fmt: skip
        # Loops count once; conditions of all calls are made in front of them.
        assert needed <= report["flops"] <= 1.5 * needed, program


@pytest.mark.sweep
@needs_libtpu
def test_so_it_does_those_of_every_denoiser(tmp_path):
    values = [{"_class_name": name, **config} for name, config in CONFIGS.items()]
    reports = compiled(tmp_path, values, TOPOLOGIES[0], "--latents", 8)
    assert len(reports) == len(CONFIGS) * len(DENOISER_PROGRAMS)
    for report in reports.values():
        assert_sound(report)


@pytest.mark.parametrize("name", by_tier())
def test_programs_are_traced_from_shapes(name):
    traced = trace_denoiser(denoiser(name), DenoiserWorkload(batch=3, side=8, text=5, steps=2))
    assert tuple(traced) == DENOISER_PROGRAMS
    step, run = (jax.tree.leaves(traced[program].out_info) for program in DENOISER_PROGRAMS)
    channels = denoiser(name).projections.in_channels
    assert step[0].shape[:3] == (6, 8, 8)
    assert run[0].shape == (3, 8, 8, channels)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DenoiserWorkload(batch=0), "DenoiserWorkload: batch must be a whole number >= 1 .*got 0"),
        (lambda: DenoiserWorkload(side=-8), "DenoiserWorkload: side must be a whole number >= 1 .*got -8"),
        (
            lambda: trace_denoiser(denoiser("DiT"), DenoiserWorkload(side=7)),
            "2 x 2 do not divide an image of 7 x 7",
        ),
    ],
)
def test_sizes_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("values", "option", "message"),
    [
        (
            FILLING,
            ("--programs", "decode"),
            "--programs is of language models, and each --config",
        ),
        (FILLING, ("--new-tokens", "1"), "--new-tokens is of language models"),
        (FILLING, ("--capacity", "8"), "--capacity is of language models"),
        (FILLING, ("--canvas-cache", "dual"), "--canvas-cache is of language models"),
        (TEXTS, ("--steps", "4"), "--steps is of denoisers, and each --config is of a language model"),
        (TEXTS, ("--latents", "8"), "--latents is of denoisers"),
    ],
)
def test_options_of_the_other_kind_are_refused(values, option, message, tmp_path, capsys, monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert aot.main(["--config", str(tmp_path / "config.json"), *option]) == 1
    assert message in capsys.readouterr().err
