"""What the tests share: models of transformers with random weights, each built once per process.

That this file is here puts the directory on the path of all tests, for the modules beside it.
"""

import collections
import functools
import gc
import importlib.metadata
import itertools
import math
import os
import warnings
from pathlib import Path

import pytest
import references
import shape_checks
from configurations import CASES, case_param

# With the TPU compiler installed, jax would look for a TPU. Set before anything imports jax.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the suite's time is compilation. Less optimisation by LLVM, of a program in one piece, halves it and
# changes no numbers beyond rounding, and nothing of what XLA decides: operations, buffers, aliases.
FAST_COMPILATION = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones stop at a flag that they lack
    FAST_COMPILATION += " --xla_cpu_use_fusion_emitters=false"
if FAST_COMPILATION not in (given := os.environ.get("XLA_FLAGS", "")):
    os.environ["XLA_FLAGS"] = f"{given} {FAST_COMPILATION}".strip()
# Programs of tests are small and seldom the same: keeping them on disk takes longer than compiling some anew.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

# Tracing makes millions of small objects that stay, which the collector would look through again and again.
gc.set_threshold(100_000, 20, 20)

shape_checks.install()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keeps the tests of a module in one process, where they share models and compiled programs, and leaves
    most cases of tests marked `wide` to the sweep."""
    wide = collections.defaultdict(list)
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        if item.get_closest_marker("wide") and not item.get_closest_marker("sweep"):
            wide[item.path, item.cls, item.originalname].append(item)
    for cases in wide.values():
        step = math.ceil(len(cases) / cases[0].get_closest_marker("wide").kwargs["every_run"])
        for number, case in enumerate(cases):
            if number % step:
                case.add_marker(pytest.mark.sweep)


@pytest.fixture(autouse=True)
def strict_configurations():
    """Fails a test that reads a configuration with a key that the family does not know."""
    from jaxmodels.models.hf_config import ConfigWarning

    with warnings.catch_warnings():
        warnings.simplefilter("error", ConfigWarning)
        yield


# Linux allows a process 65,530 memory mappings, each compiled program takes about seven, and the compiler
# crashes where it gets no more.
MAPPINGS, MOST_MAPPINGS = Path("/proc/self/maps"), 12_000
_tests_run = itertools.count(1)


@pytest.fixture(autouse=True)
def few_mappings():
    """Drops the compiled programs of earlier tests once there are many; looks after every tenth test."""
    yield
    if next(_tests_run) % 10 or not MAPPINGS.exists():
        return
    if MAPPINGS.read_bytes().count(b"\n") > MOST_MAPPINGS:
        import jax

        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def build_reference(tmp_path_factory):
    """A function from a case to its `Reference`."""

    @functools.cache
    def build(case):
        return references.build(case, tmp_path_factory.mktemp(case.name))

    return build


def references_of(cases):
    """A fixture: the references of the cases in turn."""

    @pytest.fixture(params=[case_param(case) for case in cases])
    def one(request, build_reference):
        return build_reference(request.param)

    return one


# Of every case of the table, and of those of a kind; see `Case`.
reference = references_of(CASES)
causal_reference = references_of([case for case in CASES if case.is_causal])
masked_reference = references_of([case for case in CASES if not case.is_causal])
native_reference = references_of([case for case in CASES if case.stand_in is None])
published_reference = references_of([case for case in CASES if case.stand_in is not None])
