"""Awkward Hugging Face configurations, one table for all tests: sizes that divide badly, every option once.

Each case is built by transformers with random weights; see the `reference` fixture.
"""

import pytest

from configurations.block_diffusion import BLOCK_DIFFUSION
from configurations.case import Case
from configurations.dense import DENSE
from configurations.hybrids import HYBRIDS
from configurations.linear import LINEAR_HYBRIDS
from configurations.masked import MASKED
from configurations.mixtures import MIXTURES
from configurations.state_space import STATE_SPACE

CASES = (*DENSE, *STATE_SPACE, *MIXTURES, *LINEAR_HYBRIDS, *HYBRIDS, *MASKED, *BLOCK_DIFFUSION)

# The first of each family is in every run of the tests, the others are in the sweep.
ONE_OF_EACH_FAMILY = tuple({case.family: case for case in reversed(CASES)}.values())


def case_param(case: Case):
    """The case as a test's parameter: in its tier, in one process with the other tests of its model."""
    tier = () if case in ONE_OF_EACH_FAMILY else (pytest.mark.sweep,)
    return pytest.param(case, id=case.name, marks=(pytest.mark.xdist_group(case.name), *tier))


# Families that transformers does not have as causal language models, and the modules of tests/models that
# check them instead.
ELSEWHERE = {
    "MoE++": "test_published_layouts.py",
    "bd3lm": "test_bd3lm.py",
    "bert": "test_masked_language_models.py",
    "diffusion_gemma_text": "test_diffusion_gemma_model.py",
    "kimi_k2": "test_hybrid_configs.py",
    "mamba2-original": "test_families.py",
    "maskgit": "test_masked_language_models.py",
    "minicpm": "test_published_layouts.py",
    "modernbert": "test_masked_language_models.py",
}
