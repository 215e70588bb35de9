"""The matrix of programs that compile for TPU slices of four devices: kinds of models, generations."""

from pathlib import Path

import pytest
from aot_process import COMPILING, needs_libtpu, told_with_compiler

from benchmarks.tpu_matrix import DOCUMENT, MODELS, SLICES, SMALL, Cell, document, few_layers
from jaxmodels.artefacts.portable import export_programs
from jaxmodels.decoding.default import default_strategy
from jaxmodels.tpu_configs.programs import PROGRAMS, host_transfers
from jaxmodels.tpu_configs.slices import find_slice

ROOT = Path(__file__).parents[2]


# The step, which all decoding is made of, is compiled of all kinds for one slice and of every second one for
# each of the others. Prefill and generation at such widths take up to a minute each: here of two kinds for
# one slice. `benchmarks.tpu_matrix` compiles all of them.
WHOLE, MAIN = ("attention", "SSD"), "v6e-4"
KINDS = tuple(MODELS)
PARTS = {
    on: (KINDS if on == MAIN else KINDS[number % 2 :: 2], on, ("decode",)) for number, on in enumerate(SLICES)
} | {"whole": (WHOLE, MAIN, ("prefill", "generate"))}


@needs_libtpu
@pytest.mark.sweep
@pytest.mark.xdist_group("aot")
@pytest.mark.timeout(COMPILING)
@pytest.mark.parametrize("part", PARTS)
def test_the_tpu_compiler_takes_one_model_of_each_kind_on_four_devices(part):
    kinds, on, programs = PARTS[part]
    chosen = ["--kinds", *kinds, "--slices", on, "--programs", *programs]
    found = [Cell(**cell) for cell in told_with_compiler("-m", "benchmarks.tpu_matrix", *chosen, cwd=ROOT)]
    assert [(it.kind, it.program) for it in found] == [(kind, it) for kind in kinds for it in programs]
    usable = find_slice(on).chip.usable_bytes / 2**20
    assert all(it.mesh and 0 < it.mebibytes < usable for it in found)


@pytest.mark.sweep
@pytest.mark.parametrize("kind", MODELS)
def test_programs_of_each_kind_are_exported_for_cuda(kind):
    config = few_layers(MODELS[kind])
    strategy = default_strategy(config, SMALL.new_tokens)
    found = export_programs(config, SMALL, strategy=strategy, platforms=("cuda",))
    assert set(PROGRAMS) < set(found)
    for one in found.values():
        assert one.platforms == ("cuda",)
        assert not host_transfers(one.mlir_module())


def test_the_page_has_what_was_compiled():
    cells = [
        Cell(kind="SSD", model="M", slice=on, program=program, mesh="tensor=4", mebibytes=1234.5, seconds=1.0)
        for on, program in (("v5e-4", "decode"), ("v6e-4", "decode"), ("v6e-4", "prefill"))
    ]
    page = document(cells)
    assert "| SSD | M | decode 1,234 (tensor=4) | decode 1,234; prefill 1,234 (tensor=4) |" in page
    assert "| kind | model | v5e-4 | v6e-4 |" in page


def test_the_page_that_is_kept_has_all_kinds():
    assert all(f"| {kind} |" in DOCUMENT.read_text("utf-8") for kind in MODELS)
