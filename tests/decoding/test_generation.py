"""Generation: what it equals, what it compiles to, and how often."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, VOCAB, attention, decoder, forward, random_params
from strategy_helpers import architecture, ready

import jaxmodels as jm
from jaxmodels.decoding import Autoregressive, Draft, Sample, Speculative, TreeDrafter, driver
from jaxmodels.decoding.generation import plan, stream
from jaxmodels.decoding.processors import RepetitionPenalty
from jaxmodels.decoding.prompts import encode_prompts
from jaxmodels.layers.cache.window_only import WindowOnly
from jaxmodels.layers.spec import abstract_params

RAGGED = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2], [3, 8, 4]]
SAMPLED = Autoregressive(
    sampler=Sample(temperature=0.9, top_k=9, top_p=0.95, min_p=0.01), processors=(RepetitionPenalty(1.3),)
)


@pytest.fixture(scope="module", params=["hybrid", "sliding"])
def model(request):
    config = ARCHITECTURES[request.param]
    return jm.Model(config=config, params=random_params(config.spec()))


@pytest.fixture(scope="module")
def hybrid():
    config = ARCHITECTURES["hybrid"]
    return jm.Model(config=config, params=random_params(config.spec()))


@pytest.mark.wide(every_run=1)
def test_greedy_is_the_argmax_of_the_full_forward(model):
    result = model.generate(RAGGED, 12, stop_tokens=[])
    width = max(map(len, RAGGED)) + 12
    rows = np.zeros((len(RAGGED), width), np.int32)
    for i, prompt in enumerate(RAGGED):
        rows[i, : len(prompt) + 12] = [*prompt, *result.tokens[i]]
    logits = np.asarray(forward(model.config, model.params, jnp.asarray(rows)))
    for i, prompt in enumerate(RAGGED):
        expected = logits[i, len(prompt) - 1 : len(prompt) + 11].argmax(-1)
        assert result.tokens[i].tolist() == expected.tolist()
    assert result.lengths.tolist() == [12] * 4
    assert result.stats.steps == 11
    assert result.stats.prompt_tokens == sum(map(len, RAGGED))
    assert result.stats.new_tokens == 48


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("strategy", [Autoregressive(), SAMPLED], ids=["greedy", "sampled"])
def test_rows_do_not_depend_on_their_neighbours(model, strategy):
    together = model.generate(RAGGED, 10, strategy, stop_tokens=[7], seed=5)
    shuffled = model.generate([*RAGGED[:1], *reversed(RAGGED[1:])], 10, strategy, stop_tokens=[7], seed=5)
    assert together.tokens[0].tolist() == shuffled.tokens[0].tolist()
    if isinstance(strategy.sampler, Sample):
        return
    for i, prompt in enumerate(RAGGED):
        alone = model.generate([prompt], 10, strategy, stop_tokens=[7])
        assert alone.tokens[0].tolist() == together.tokens[i].tolist()
        assert alone.lengths[0] == together.lengths[i]


def test_rows_stop_by_themselves(hybrid):
    free = hybrid.generate(RAGGED, 12, stop_tokens=[])
    stop = int(free.tokens[0, 4])
    stopped = hybrid.generate(RAGGED, 12, stop_tokens=[stop])
    for row, length, all_tokens in zip(stopped.tokens, stopped.lengths, free.tokens, strict=True):
        occurs = np.flatnonzero(all_tokens == stop)
        expected = occurs[0] + 1 if occurs.size else 12
        assert length == expected
        assert row[:length].tolist() == all_tokens[:length].tolist()
        assert (row[length:] == stop).all()  # the padding token falls back to the first stop token
    assert stopped.lengths[0] <= 5


@pytest.mark.wide(every_run=1)
def test_windowed_prefill_changes_nothing(model):
    whole = model.generate(RAGGED, 8, stop_tokens=[])
    windowed = model.generate(RAGGED, 8, Autoregressive(prefill_window=4), stop_tokens=[])
    assert whole.tokens.tolist() == windowed.tokens.tolist()


@pytest.mark.sweep
def test_sampling_is_seeded(hybrid):
    first = hybrid.generate(RAGGED, 10, SAMPLED, stop_tokens=[], seed=1)
    again = hybrid.generate(RAGGED, 10, SAMPLED, stop_tokens=[], seed=1)
    other = hybrid.generate(RAGGED, 10, SAMPLED, stop_tokens=[], seed=2)
    assert first.tokens.tolist() == again.tokens.tolist() != other.tokens.tolist()


@pytest.mark.sweep
def test_log_probs_are_those_of_the_model(hybrid):
    result = hybrid.generate(RAGGED[:1], 6, Autoregressive(top_logprobs=3), stop_tokens=[])
    tokens = [*RAGGED[0], *result.tokens[0]]
    logits = forward(hybrid.config, hybrid.params, jnp.asarray([tokens], jnp.int32))
    expected = np.asarray(jax.nn.log_softmax(logits[0], -1))[len(RAGGED[0]) - 1 : -1]
    chosen = np.take_along_axis(expected, result.tokens[0][:, None], 1)[:, 0]
    np.testing.assert_allclose(result.log_probs.chosen[0], chosen, atol=1e-5)
    np.testing.assert_allclose(result.log_probs.top[0], -np.sort(-expected, 1)[:, :3], atol=1e-5)
    assert (result.log_probs.top_ids[0, :, 0] == expected.argmax(1)).all()
    assert hybrid.generate(RAGGED[:1], 2, stop_tokens=[]).log_probs is None


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_streaming_is_the_same_generation_in_pieces(hybrid, chunk):
    expected = hybrid.generate(RAGGED, 9, SAMPLED, stop_tokens=[4], seed=3)
    ready = plan(
        hybrid.config,
        hybrid.params,
        encode_prompts(RAGGED, None, VOCAB),
        SAMPLED,
        max_new_tokens=9,
        stop_tokens=[4],
        pad_token=4,
        seed=3,
        capacity=None,
    )
    results = list(stream(hybrid.config, hybrid.params, SAMPLED, ready, chunk))
    assert results[0].lengths.tolist() == [1] * 4
    assert results[-1].tokens.tolist() == expected.tokens.tolist()
    assert len(results) == 1 + -(-expected.stats.steps // chunk)


def backend_compiles(run):
    names = []

    def listen(event, duration, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(details.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        run()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return names


@pytest.mark.sweep
def test_a_second_prompt_in_the_bucket_compiles_nothing(hybrid):
    def run(prompts, new, seed, stop, temperature, penalty):
        sampler = Sample(temperature=temperature, top_k=4, top_p=0.5 + temperature / 4)
        strategy = Autoregressive(sampler=sampler, processors=(RepetitionPenalty(penalty),), top_logprobs=1)
        hybrid.generate(prompts, new, strategy, stop_tokens=stop, seed=seed)

    assert backend_compiles(lambda: run([[1, 2], [3]], 9, 0, [], 0.5, 1.1))
    assert backend_compiles(lambda: run([[5] * 14, [6, 7]], 16, 9, [1, 2, 3], 1.5, 1.2)) == []


def lowered(config, capacity):
    params = abstract_params(config.spec())
    request = jax.eval_shape(
        lambda: (
            plan(
                config,
                params,
                encode_prompts([[1] * 16] * 2, None, VOCAB),
                Autoregressive(),
                max_new_tokens=16,
                stop_tokens=[],
                pad_token=0,
                seed=0,
                capacity=32,
            ).request
        )
    )
    cache = jax.eval_shape(lambda: config.init_cache(2, capacity))
    return driver.generate.lower(params, request, cache, Autoregressive(), config=config, max_new=16), cache


@pytest.mark.sweep
def test_the_program_keeps_the_cache_in_place_and_calls_no_host():
    config = dataclasses.replace(ARCHITECTURES["hybrid"])
    sizes = {}
    for capacity in (256, 4096):
        program, cache = lowered(config, capacity)
        compiled = program.compile()
        memory = compiled.memory_analysis()
        cache_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))
        assert memory.alias_size_in_bytes >= cache_bytes
        sizes[capacity] = (memory.temp_size_in_bytes, cache_bytes)
        text = compiled.as_text()
        for word in ("callback", "infeed", "outfeed", " send(", " recv("):
            assert word not in text
    grown = sizes[4096][0] - sizes[256][0]
    # What may grow is per slot and row, not per slot, head and feature: masks and block bounds.
    assert grown <= 16 * 2 * (4096 - 256), sizes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number >= 1 .*, got 0"),
        ({"capacity": 6, "max_new_tokens": 4}, "capacity=6 cannot hold a prompt of 5 .* at least 9"),
        ({"stop_tokens": [VOCAB]}, f"stop_tokens: {VOCAB} lies outside"),
        ({"prompts": [[VOCAB]]}, f"token id {VOCAB}"),
        ({"prompts": [[]]}, "row 0 is empty"),
        ({"prompts": "text"}, "no tokenizer"),
    ],
)
def test_bad_requests_are_refused(hybrid, arguments, message):
    with pytest.raises(ValueError, match=message):
        hybrid.generate(**{"prompts": RAGGED[:1], **arguments})


@pytest.mark.sweep
def test_a_given_capacity_is_allocated(hybrid):
    """Exactly: even where the padded prompt of the default would not fit."""
    free = hybrid.generate(RAGGED[:1], 2)
    for capacity in (1000, len(RAGGED[0]) + 2):
        given = hybrid.generate(RAGGED[:1], 2, capacity=capacity)
        assert given.stats.capacity == capacity
        np.testing.assert_array_equal(given.tokens, free.tokens)


@pytest.mark.parametrize(
    "strategy",
    [Autoregressive(), Speculative(draft=TreeDrafter(draft=Draft(*architecture("ssd")), siblings=(2, 1)))],
    ids=["plain", "tree"],
)
def test_layers_that_keep_no_history_are_refused(strategy):
    config = decoder(attention(), attention(cache=WindowOnly()))
    with pytest.raises(ValueError, match=r"block 1 cannot decode token by token: its cache=WindowOnly\(\)"):
        ready(config, None, strategy)
