"""Decoding, costs and programs take whatever keeps the Protocol, and refuse by name what they cannot use."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bigrams import Bigrams, continuation
from model_helpers import ARCHITECTURES, VOCAB, random_params

import jaxmodels as jm
from jaxmodels.decoding import driver
from jaxmodels.decoding.autoregressive import Autoregressive
from jaxmodels.decoding.early_exit import EarlyExit
from jaxmodels.decoding.jacobi import Jacobi
from jaxmodels.decoding.samplers import Sample
from jaxmodels.decoding.scmoe import SCMoE
from jaxmodels.decoding.speculative import Draft, Speculative
from jaxmodels.models.costs import cache_bytes, weight_bytes
from jaxmodels.models.language_model import BlockStack, LanguageModel
from jaxmodels.tpu_configs.programs import Workload, trace_programs

CONFIG = Bigrams(VOCAB)
PARAMS = {"table": jax.random.normal(jax.random.key(0), (VOCAB, VOCAB))}
MODEL = jm.Model(config=CONFIG, params=PARAMS)
PROMPTS, NEW = [[3, 1, 4], [1], [5, 9, 2, 6]], 10
DRAFT = ARCHITECTURES["ssd"]


def test_both_are_language_models():
    assert isinstance(CONFIG, LanguageModel) and isinstance(DRAFT, LanguageModel)
    assert isinstance(DRAFT, BlockStack) and not isinstance(CONFIG, BlockStack)


@pytest.mark.parametrize(
    "strategy",
    [
        Autoregressive(prefill_window=2),
        Jacobi(window=3),
        Speculative(draft=MODEL, gamma=2),
        Speculative(draft=Draft(DRAFT, random_params(DRAFT.spec())), gamma=2),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_strategies_run_on_a_model_without_blocks(strategy):
    out = MODEL.generate(PROMPTS, NEW, strategy, stop_tokens=[])
    expected = [continuation(np.asarray(PARAMS["table"]), prompt, NEW) for prompt in PROMPTS]
    np.testing.assert_array_equal(out.tokens, expected)


@pytest.mark.sweep
def test_it_drafts_for_a_decoder():
    decoder = jm.Model(config=DRAFT, params=random_params(DRAFT.spec()))
    out = decoder.generate(PROMPTS, NEW, Speculative(draft=MODEL, gamma=2), stop_tokens=[])
    np.testing.assert_array_equal(out.tokens, decoder.generate(PROMPTS, NEW, stop_tokens=[]).tokens)


def test_sampling_and_log_probabilities_need_no_blocks():
    strategy = Autoregressive(sampler=Sample(temperature=0.8), top_logprobs=2)
    out = MODEL.generate(PROMPTS, NEW, strategy, stop_tokens=[], seed=3)
    before = np.concatenate([[[prompt[-1]] for prompt in PROMPTS], out.tokens[:, :-1]], axis=1)
    expected = jax.nn.log_softmax(PARAMS["table"])[before, out.tokens]
    np.testing.assert_allclose(out.log_probs.chosen, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (EarlyExit(), "a policy of depth needs a model made of blocks, which Bigrams is not"),
        (SCMoE(), "SCMoE contrasts mixtures of experts; the model has none"),
    ],
    ids=["EarlyExit", "SCMoE"],
)
def test_strategies_that_need_blocks_say_so(strategy, message):
    with pytest.raises(ValueError, match=message):
        MODEL.generate(PROMPTS, NEW, strategy)


def test_logits_of_a_model_without_blocks():
    tokens = np.asarray([[1, 2, 3]])
    np.testing.assert_array_equal(MODEL(tokens), np.asarray(PARAMS["table"])[tokens])


def test_its_programs_compile_ahead_of_time():
    traced = trace_programs(CONFIG, Workload(prompt=4, new_tokens=NEW, dtype="float32"))
    assert traced["generate"].lower().compile().memory_analysis().alias_size_in_bytes > 0
    cache = driver.allocate(config=CONFIG, batch=2, capacity=8, dtype="float32")
    assert cache.length.shape == (2,)


def test_its_costs_are_those_of_its_arrays():
    assert weight_bytes(CONFIG, jnp.bfloat16) == 2 * VOCAB * VOCAB
    assert vars(cache_bytes(CONFIG, jnp.float32)) == {"per_token": 0, "per_row": 8}


def test_a_model_without_names_in_checkpoints_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="config is a Bigrams, which has no form in checkpoints"):
        jm.save(MODEL, tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_other_configurations_are_refused():
    with pytest.raises(ValueError, match=r"config must be .* another LanguageModel, got 'qwen3'"):
        jm.Model(config="qwen3", params=PARAMS)


def test_no_strategy_knows_the_decoder():
    for path in Path(jm.__file__).parent.glob("decoding/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module != "jaxmodels.models.decoder", path
