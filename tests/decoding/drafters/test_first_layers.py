"""The first layers draft on the model's own cache, and leave its histories as they were."""

import dataclasses

import jax
import numpy as np
import pytest
from model_helpers import attention, decoder, random_params
from strategy_helpers import (
    BESIDE_A_MODEL,
    architecture,
    assert_same_generation,
    decode,
    expected,
    stop_inside,
)

import jaxmodels as jm
from jaxmodels.decoding import Autoregressive, Draft, FirstLayers, ModelDrafter, Sample, Speculative
from jaxmodels.decoding.lengths import Confident, GrowShrink
from jaxmodels.decoding.processors import RepetitionPenalty
from jaxmodels.layers.cache.d2o import D2O


@pytest.mark.parametrize("name", BESIDE_A_MODEL)
def test_the_text_is_that_of_the_model(name):
    config, params = architecture(name)
    strategy = Speculative(draft=FirstLayers(layers=1, size=3), top_logprobs=2)
    ours = decode(config, params, strategy)
    assert_same_generation(ours, expected(name))
    stop = stop_inside(expected(name).tokens)
    stopped = decode(config, params, strategy, stop=(stop,))
    assert_same_generation(stopped, expected(name, stop=(stop,)))


@pytest.mark.parametrize(
    "length",
    [Confident(threshold=0.06), GrowShrink(start=2, most=4)],
    ids=["confident", "grow_shrink"],
)
@pytest.mark.sweep
def test_samples_are_those_behind_the_same_layers_as_a_model(length):
    """Drafts and verdicts draw with the same keys, so that every token is the same."""
    config, params = architecture("ssd")
    first = Draft(dataclasses.replace(config, blocks=config.blocks[:1]), params)
    rules = {"sampler": Sample(temperature=0.7, top_k=12), "processors": (RepetitionPenalty(1.2),)}
    ours, expected = (
        decode(config, params, Speculative(draft=draft, length=length, top_logprobs=2, **rules))
        for draft in (FirstLayers(layers=1, size=4), ModelDrafter(draft=first, size=4))
    )
    assert_same_generation(ours, expected)
    for counter in ("drafted", "accepted"):
        np.testing.assert_array_equal(ours.counters[counter], expected.counters[counter])
    assert 0 < ours.counters["accepted"].sum() < ours.counters["drafted"].sum()


@pytest.mark.sweep
def test_histories_that_evict_are_read_from_the_front():
    cache = D2O(budget=24, recent=8, sinks=1, spare=2, longest_peek=32)
    config = decoder(attention(cache=cache), attention(cache=cache))
    params = random_params(config.spec())
    ours = decode(config, params, Speculative(draft=FirstLayers(layers=1, size=3)))
    np.testing.assert_array_equal(ours.tokens, decode(config, params, Autoregressive()).tokens)


def faint(params):
    """The model with last blocks that hardly change the stream, so that the first ones are often right."""
    blocks = params["blocks"]
    weak = jax.tree.map(lambda leaf: leaf * 0.05, blocks[str(len(blocks) - 1)])
    return {**params, "blocks": {**blocks, str(len(blocks) - 1): weak}}


@pytest.mark.sweep
def test_first_layers_that_say_what_all_say_are_accepted():
    config, params = architecture("ssd")
    params = faint(params)
    ours = decode(config, params, Speculative(draft=FirstLayers(layers=len(config.blocks) - 1, size=3)))
    np.testing.assert_array_equal(ours.tokens, decode(config, params, Autoregressive()).tokens)
    assert ours.counters["accepted"].sum() > 0.6 * ours.counters["drafted"].sum()


@pytest.mark.sweep
def test_self_speculation_of_transformers_gives_the_same_text(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    values = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**values, initializer_range=0.3)).eval()
    theirs.save_pretrained(tmp_path)
    model = jm.load(tmp_path)
    prompt = [[3, 1, 4, 1, 5, 9]]
    for layers in (1, 2, 3):
        reference = theirs.generate(
            torch.tensor(prompt), max_new_tokens=12, do_sample=False, assistant_early_exit=layers
        )
        ours = model.generate(prompt, 12, Speculative(draft=FirstLayers(layers=layers)), stop_tokens=[])
        np.testing.assert_array_equal(ours.tokens[0], reference[0, 6:].numpy())


@pytest.mark.parametrize(
    ("drafter", "message"),
    [
        (lambda: FirstLayers(layers=0), "layers must be a whole number >= 1 .*, got 0"),
        (lambda: FirstLayers(layers=1, size=0), "size must be a whole number >= 1 .*, got 0"),
    ],
    ids=["layers", "size"],
)
def test_values_outside_their_range_are_refused(drafter, message):
    with pytest.raises(ValueError, match=message):
        drafter()


def test_all_layers_are_no_first_layers():
    config, params = architecture("attention")
    blocks = len(config.blocks)
    with pytest.raises(
        ValueError, match=rf"layers={blocks}\) must have fewer than the model's {blocks} blocks"
    ):
        decode(config, params, Speculative(draft=FirstLayers(layers=blocks)))
