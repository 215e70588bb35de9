"""Awkward Hugging Face configurations, one table for all tests: sizes that divide badly, every option once.

Each case is built by transformers with random weights; see the `reference` fixture.
"""

from configurations.dense import DENSE
from configurations.hybrids import HYBRIDS
from configurations.linear import LINEAR_HYBRIDS
from configurations.mixtures import MIXTURES
from configurations.state_space import STATE_SPACE

CASES = (*DENSE, *STATE_SPACE, *MIXTURES, *LINEAR_HYBRIDS, *HYBRIDS)

# Families that transformers does not have, and the modules of tests/models that check them instead.
ELSEWHERE = {
    "MoE++": "test_published_layouts.py",
    "mamba2-original": "test_families.py",
    "minicpm": "test_published_layouts.py",
}
