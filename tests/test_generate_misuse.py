"""What can be meant is accepted by generate and stream; the rest is refused in one sentence that names it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodels as jm
from jaxmodels.decoding import (
    Autoregressive,
    BlockVerification,
    Draft,
    EarlyExit,
    Jacobi,
    MaskedDiffusion,
    Sample,
    SCMoE,
    Speculative,
)
from jaxmodels.decoding.processors import MinNewTokens

KEYS = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def model():
    return jm.init(jm.config_from_hf({"model_type": "llama", "vocab_size": 32, **KEYS}))


@pytest.fixture(scope="module")
def expected(model):
    return model.generate([[3, 4]], 3, stop_tokens=[]).tokens


@pytest.mark.parametrize(
    ("prompts", "options"),
    [
        (np.array([3, 4]), {"max_new_tokens": np.int64(3)}),
        ((3, np.int32(4)), {"max_new_tokens": jnp.int32(3)}),
        ([jnp.array([3, 4])], {"seed": np.uint32(0)}),
        ([[3, 4]], {"capacity": np.int64(128)}),
        ([[3, 4]], {"stop_tokens": np.array([], np.int32)}),
        ([[3, 4]], {"strategy": Jacobi(window=np.int64(4))}),
        ([[3, 4]], {"strategy": EarlyExit(threshold=np.float32(2), min_layers=jnp.int32(1))}),
    ],
)
def test_what_can_be_meant(prompts, options, model, expected):
    options = {"max_new_tokens": 3, "stop_tokens": [], **options}
    np.testing.assert_array_equal(model.generate(prompts, **options).tokens, expected)


def test_one_token_as_prompt_and_one_as_stop(model):
    alone = model.generate(5, 3, stop_tokens=[])
    np.testing.assert_array_equal(alone.tokens, model.generate([[5]], 3, stop_tokens=[]).tokens)
    first = int(alone.tokens[0, 0])
    assert model.generate(5, 3, stop_tokens=first).lengths.tolist() == [1]
    assert model.generate(5, 3, stop_tokens=np.int64(first)).lengths.tolist() == [1]


def test_a_model_as_draft(model, expected):
    for draft in (model, Draft(model.config, model.params)):
        out = model.generate([[3, 4]], 3, Speculative(draft=draft, gamma=np.int64(2)), stop_tokens=[])
        np.testing.assert_array_equal(out.tokens, expected)


@pytest.mark.sweep
def test_the_name_of_a_model_as_draft():
    model = jm.load("tiny-mamba2")
    out = model.generate("def f(", 4, Speculative(draft="tiny-qwen3", gamma=2))
    np.testing.assert_array_equal(out.tokens, model.generate("def f(", 4).tokens)
    with pytest.raises(jm.CheckpointError, match="'tiny-none' is no model"):
        model.generate("def f(", 4, Speculative(draft="tiny-none"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": None}, "prompts must be a text, .*, got None"),
        ({"prompts": "text"}, "prompts: got text, but this model has no tokenizer"),
        ({"prompts": [[32]]}, "row 0 has token id 32 at position 0"),
        ({"max_new_tokens": None}, "max_new_tokens must be a whole number, got None"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be a whole number, got 2.5"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number >= 1"),
        ({"max_new_tokens": 2**31}, "max_new_tokens must be .*, got 2147483648"),
        ({"max_new_tokens": 10**30}, "max_new_tokens must be"),
        ({"max_new_tokens": 2**29}, r"a cache of 1 rows .* slots .* needs [\d,]+ bytes .* are free"),
        (
            {"capacity": 2**29},
            r"a cache of 1 rows .* needs [\d,]+ bytes \(.*\), but [\d,]+ bytes",
        ),
        ({"capacity": 2}, "capacity=2 cannot hold a prompt of 2 tokens and max_new_tokens=3"),
        ({"capacity": "many"}, "capacity must be a whole number, got 'many'"),
        ({"seed": -1}, "seed must be a whole number >= 0"),
        ({"seed": "x"}, "seed must be a whole number, got 'x'"),
        ({"stop_tokens": "x"}, "stop_tokens must be a token id or a list of them, got 'x'"),
        ({"stop_tokens": [99]}, "stop_tokens: 99 lies outside the vocabulary 0 to 31"),
        ({"strategy": Autoregressive}, "strategy must be an instance, got the class Autoregressive"),
        ({"strategy": "greedy"}, r"strategy must be one of jaxmodels.decoding, .*, got 'greedy'"),
        ({"strategy": EarlyExit(min_layers=9)}, "min_layers=9 exceeds the model's 1 layers"),
        ({"strategy": MaskedDiffusion()}, "was not trained to fill in unknown ones"),
        ({"strategy": SCMoE()}, "mixture"),
        ({"strategy": Autoregressive(top_logprobs=33)}, "top_logprobs=33 exceeds the vocabulary's 32 tokens"),
        ({"strategy": Jacobi(window=2**29)}, r"a cache of 1 rows .* needs [\d,]+ bytes"),
        ({"seed": jax.random.key(0)}, r"seed must be a whole number, got Array\(\(\), dtype=key"),
    ],
)
def test_misuse_of_generate_is_named(options, message, model):
    with pytest.raises(ValueError, match=message):
        model.generate(**{"prompts": [[3, 4]], "max_new_tokens": 3, **options})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Jacobi(window=1), "window must be a whole number >= 2"),
        (lambda: Jacobi(window=2.5), "window must be a whole number, got 2.5"),
        (lambda: Jacobi(window=None), "window must be a whole number, got None"),
        (lambda: Jacobi(top_logprobs=-1), "top_logprobs must be a whole number >= 0"),
        (lambda: Jacobi(prefill_window="x"), "prefill_window must be a whole number, got 'x'"),
        (
            lambda: Speculative(draft=3),
            r"draft must be a model, a Draft\(config, params\) or .*, got 3",
        ),
        (lambda: Speculative(draft=None), "draft must be a model, .*, got None"),
        (lambda: Speculative(draft="tiny-qwen3", gamma=10**10), "gamma must be a whole number >= 1 and <="),
        (lambda: Autoregressive(sampler=Sample), r"sampler must be one such as Greedy\(\) or Sample"),
        (lambda: Autoregressive(sampler="greedy"), r"sampler must be one such as .*, got 'greedy'"),
        (lambda: Sample(temperature="hot"), "temperature must be a number, got 'hot'"),
        (lambda: Sample(temperature=np.float32("nan")), "temperature must be a finite number"),
        (lambda: Sample(top_p=5), "top_p must be a finite number > 0 and <= 1, got 5"),
        (lambda: EarlyExit(threshold=float("nan")), "threshold must be a finite number"),
        (lambda: MaskedDiffusion(steps="all"), r"steps must be a whole number, got 'all'"),
        (lambda: SCMoE(alpha=0), "alpha must be a finite number > 0"),
        (lambda: SCMoE(ranks=1), "ranks must be a sequence of ranks, got 1"),
        (lambda: SCMoE(ranks=("x",)), r"ranks\[0\] must be a whole number, got 'x'"),
        (lambda: SCMoE(ranks=()), r"ranks must be a sequence of at least one rank, got \(\)"),
        (
            lambda: Autoregressive(processors=None),
            r"processors must be a sequence of processors, .*, got None",
        ),
        (
            lambda: Autoregressive(processors="ab"),
            "processors must be a sequence of processors, .*, got 'ab'",
        ),
        (lambda: Autoregressive(processors=(MinNewTokens,)), r"processors\[0\] must be one such as MinNew"),
        (lambda: Jacobi(processors=[len]), r"processors\[0\] must be one such as .*function len"),
        (lambda: EarlyExit(confidence="x"), r"confidence must be one such as MaxProbability\(\), got 'x'"),
        (lambda: EarlyExit(decode=None), r"decode must be one such as Autoregressive\(\), got None"),
        (lambda: EarlyExit(decode=Jacobi()), r"decode must be one such as Autoregressive\(\), got Jacobi"),
        (lambda: Speculative(draft=Draft(None, None)), "draft must be a model, .*, got Draft"),
        (lambda: Speculative(draft="x", acceptance=3), "acceptance must be one such as TokenVerif.*got 3"),
        (lambda: Speculative(draft="x", acceptance=BlockVerification), "acceptance must be one such as"),
        (lambda: Sample(temperature=None), "temperature must be a number, got None"),
    ],
)
def test_misuse_of_options_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (None, r"tokens must be int\[B, S\], got object\[\]"),
        ("text", r"tokens must be int\[B, S\], got <U4\[\]"),
        ([3, 4], r"tokens must be int\[B, S\], got int64\[2\]"),
        ([[3, 4], [5]], r"tokens must be int\[B, S\], got \[\[3, 4\], \[5\]\]"),
        ([[0.5]], r"tokens must be int\[B, S\], got float64\[1, 1\]"),
        (np.zeros((0, 3), int), r"tokens must be int\[B, S\], got int64\[0, 3\]"),
        ([[32]], "row 0 has token id 32 at position 0; the vocabulary has ids 0 to 31"),
    ],
)
def test_misuse_of_the_forward_pass_is_named(tokens, message, model):
    with pytest.raises(ValueError, match=message):
        model(tokens)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"config": None},
            "config must be a Decoder, as config_from_hf gives, or another LanguageModel, got None",
        ),
        ({"tokenizer": "x"}, "tokenizer must be a jaxmodels.checkpoints.Tokenizer or None, got 'x'"),
        ({"generation": None}, "generation must be a GenerationDefaults, got None"),
        ({"metadata": 3}, "metadata must be a mapping, got 3"),
        ({"extra_tensors": {}}, r"extra_tensors must be a TensorReader, .* or None, got \{\}"),
    ],
)
def test_fields_of_a_model_are_checked(changes, message, model):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(model, **changes)


def test_a_window_beyond_the_memory_is_named():
    """A recurrent model's cache has no slots, so only the logits of the window are too large."""
    with pytest.raises(ValueError, match=r"the logits of 1 rows .* and \d+ tokens .* needs [\d,]+ bytes"):
        jm.load("tiny-mamba2").generate([[3]], 2, Jacobi(window=2**30))


def test_parameters_of_another_model_are_named(model):
    embed = {**model.params, "embed": {"weight": jnp.ones((32, 16))}}
    with pytest.raises(ValueError, match=r"'embed/weight' has shape \[32, 16\], expected \[32, 8\]"):
        dataclasses.replace(model, params=embed).generate([[1]], 2)
    with pytest.raises(ValueError, match=r"they lack \['blocks/0/.*missing"):
        dataclasses.replace(model, params={"embed": model.params["embed"]}).generate([[1]], 2)
    with pytest.raises(ValueError, match="params must be a nested dict of arrays, got NoneType"):
        dataclasses.replace(model, params=None).generate([[1]], 2)
    with pytest.raises(ValueError, match=r"they lack \['embed"):
        dataclasses.replace(model, params={})([[1]])
    with pytest.raises(ValueError, match=r"draft: the parameters are not .* they lack \['embed"):
        model.generate([[1]], 2, Speculative(draft=Draft(model.config, {})))


@pytest.mark.sweep
def test_misuse_of_stream_is_named():
    model = jm.load("tiny-mamba2")
    with pytest.raises(ValueError, match="stream takes one prompt, got 2; use generate"):
        model.stream(["a", "b"])
    for chunk, message in (
        (0, "chunk must be a whole number >= 1"),
        ("x", "chunk must be .*, got 'x'"),
    ):
        with pytest.raises(ValueError, match=message):
            model.stream("a", chunk=chunk)
    with pytest.raises(ValueError, match="strategy must be an instance, got the class Jacobi"):
        model.stream("a", strategy=Jacobi)
    assert (
        "".join(piece.text for piece in model.stream("def f(", np.int64(4), chunk=np.int64(2)))
        == model.generate("def f(", 4).text[0]
    )
