"""`jaxmodels generate` prints what `Model.generate` gives."""

import dataclasses
import json
import os
import re
import sys

import numpy as np
import pytest

import jaxmodels as jm
from jaxmodels.cli import common
from jaxmodels.cli.generate import _read_prompt
from jaxmodels.decoding import Autoregressive, Sample
from jaxmodels.decoding.lengths import PredictedAcceptance
from jaxmodels.decoding.processors import (
    FrequencyPenalty,
    LogitBias,
    MinNewTokens,
    NoRepeatNGram,
    PresencePenalty,
    RepetitionPenalty,
)
from jaxmodels.models.draft_heads.acceptance import AcceptanceHead

PROMPT, NEW = "the cat", 12
GREEDY = Autoregressive()


@pytest.fixture(scope="module")
def model(model_dir):
    return jm.load(model_dir)


@pytest.fixture
def generate(run, model_dir):
    def call(*arguments, **expected):
        return run("generate", "--model", model_dir, "-n", NEW, *arguments, **expected)

    return call


def text_of(model, prompt=PROMPT, strategy=GREEDY, **arguments):
    return model.generate(prompt, NEW, strategy, **arguments).text[0]


def test_streamed_and_whole_text_are_the_models(generate, model):
    expected = text_of(model) + "\n"
    assert generate(PROMPT).stdout == expected
    assert generate(PROMPT, "--no-stream").stdout == expected


def test_adapters_are_merged(generate, model, model_dir, adapter_dir):
    adapted = text_of(jm.load(model_dir, adapter=adapter_dir))
    assert generate(PROMPT, "--adapter", adapter_dir).stdout == adapted + "\n" != text_of(model) + "\n"


def test_json_holds_the_generation(generate, model, model_dir):
    values = json.loads(generate(PROMPT, "--json", "--logprobs", 2).stdout)
    out = model.generate(PROMPT, NEW, Autoregressive(top_logprobs=2))
    assert values["model"] == str(model_dir) and values["prompt"] == PROMPT
    assert values["dtype"] == "float32"
    assert values["text"] == out.text[0]
    assert values["tokens"] == out.tokens[0, : out.lengths[0]].tolist()
    assert values["lengths"] == {"prompt": len(model.tokenizer.encode(PROMPT)), "new": int(out.lengths[0])}
    assert values["stats"]["new_tokens"] == int(out.lengths[0]) and values["stats"]["seconds"] > 0
    assert [one["token"] for one in values["log_probs"]] == values["tokens"]
    length = int(out.lengths[0])
    chosen = [one["log_prob"] for one in values["log_probs"]]
    np.testing.assert_allclose(chosen, out.log_probs.chosen[0, :length], rtol=1e-5)
    for i, one in enumerate(values["log_probs"]):
        assert [other["token"] for other in one["top"]] == out.log_probs.top_ids[0, i].tolist()


def test_json_without_log_probabilities_has_none(generate):
    assert "log_probs" not in json.loads(generate(PROMPT, "--json").stdout)


def test_weights_in_few_bits(generate, model_dir):
    few = jm.load(model_dir, quantize="int4-channel")
    assert generate(PROMPT, "--quantize", "int4-channel").stdout == text_of(few) + "\n"


@pytest.mark.sweep
def test_experts_in_host_memory(generate):
    asked = (PROMPT, "--model", "tiny-hybrid-moe", "-n", "6")
    assert generate(*asked, "--experts", "host,kept=4,ahead=1").stdout == generate(*asked).stdout


@pytest.mark.parametrize("experts", ["disk", "device,kept=2", "host,kept=all", "host,keep=2", "host,"])
def test_experts_in_no_memory_are_refused(generate, experts):
    told = generate(PROMPT, "--experts", experts, code=2).stderr
    assert f"--experts must be device, host, or as host,kept=8,ahead=2, got {experts!r}" in told


def test_dtype(generate):
    assert json.loads(generate(PROMPT, "--json", "--dtype", "bfloat16").stdout)["dtype"] == "bfloat16"


def test_prompts_from_a_pipe_and_a_file(generate, model, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text(PROMPT + "\n\n")  # one line break is the file's end, the other the prompt's
    expected = text_of(model, PROMPT + "\n") + "\n"
    assert generate("--file", file).stdout == expected
    assert generate(stdin=PROMPT + "\n\n").stdout == expected
    assert generate("-", stdin=PROMPT + "\n\n").stdout == expected


@pytest.mark.sweep
def test_sampling_follows_the_options_and_the_seed(generate, model):
    options = ("--temperature", 0.9, "--min-p", 0.01, "--no-stream")
    strategy = Autoregressive(sampler=Sample(temperature=0.9, min_p=0.01))
    first, second = (generate(PROMPT, *options, "--seed", seed).stdout for seed in (1, 2))
    assert first == text_of(model, strategy=strategy, seed=1) + "\n"
    assert second == text_of(model, strategy=strategy, seed=2) + "\n"
    assert first != second


@pytest.mark.sweep
def test_recommended_settings(generate, model):
    strategy = model.recommended_strategy()
    sampler = Sample(temperature=0.7, top_k=5)
    assert strategy == Autoregressive(sampler=sampler, processors=(RepetitionPenalty(1.1),))
    assert generate(PROMPT, "--recommended", "--no-stream").stdout == text_of(model, strategy=strategy) + "\n"
    changed = dataclasses.replace(strategy, processors=(RepetitionPenalty(2.0), MinNewTokens(3)))
    options = ("--repetition-penalty", 2, "--min-new-tokens", 3)
    out = generate(PROMPT, "--recommended", *options, "--no-stream").stdout
    assert out == text_of(model, strategy=changed) + "\n"


@pytest.mark.sweep
def test_processors_follow_their_options_with_every_strategy(generate, model, model_dir):
    options = (
        *("--repetition-penalty", 1.3, "--frequency-penalty", 0.2, "--presence-penalty", 0.1),
        *("--no-repeat-ngram", 2, "--logit-bias", "7=1.5", "--logit-bias", "9=-2", "--min-new-tokens", 4),
    )
    processors = (
        LogitBias({7: 1.5, 9: -2.0}),
        RepetitionPenalty(1.3),
        FrequencyPenalty(0.2),
        PresencePenalty(0.1),
        NoRepeatNGram(2),
        MinNewTokens(4),
    )
    expected = text_of(model, strategy=Autoregressive(processors=processors))
    assert expected != text_of(model)
    for strategy in ((), ("--strategy", "speculative", "--draft", model_dir)):
        assert generate(PROMPT, *options, *strategy).stdout == expected + "\n"


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(
    ("options", "counter"),
    [
        (("--strategy", "jacobi", "--guesses", 3), "accepted"),
        (("--strategy", "prompt-lookup", "--draft-tokens", 3), "accepted"),
        (("--strategy", "suffix", "--draft-tokens", 7, "--draft-length", "grow-shrink"), "accepted"),
        (("--strategy", "suffix-tree", "--draft-tokens", 7), "accepted"),
        (("--strategy", "first-layers", "--draft-layers", 1, "--draft-tokens", 2), "accepted"),
        (("--strategy", "early-exit", "--threshold", 2, "--min-layers", 2), "layers"),
    ],
)
def test_strategies_keep_the_text(generate, model, options, counter):
    values = json.loads(generate(PROMPT, "--json", *options).stdout)
    assert values["text"] == text_of(model)
    assert counter in values["stats"]["per_call"]


@pytest.mark.sweep
def test_a_draft_is_loaded(generate, model, model_dir):
    options = ("--strategy", "speculative", "--draft", model_dir, "--draft-tokens", 2)
    values = json.loads(generate(PROMPT, "--json", *options, "--logprobs", 1).stdout)
    assert values["text"] == text_of(model)
    assert values["stats"]["per_call"]["drafted"] == 2
    assert values["stats"]["counters"]["accepted"] > 0
    assert len(values["log_probs"]) == len(values["tokens"])


@pytest.mark.sweep
def test_a_head_that_ends_drafts_is_loaded(generate, model, model_dir, tmp_path):
    head = AcceptanceHead(d_model=16, layers=0)
    params = {"output": {"weight": np.zeros((2, 16), np.float32), "bias": np.asarray([9, 0], np.float32)}}
    jm.save_draft_length(PredictedAcceptance(head=head, params=params), tmp_path / "head")
    options = ("--strategy", "speculative", "--draft", model_dir, "--acceptance-head", tmp_path / "head")
    values = json.loads(generate(PROMPT, "--json", *options).stdout)
    assert values["text"] == text_of(model)
    assert values["stats"]["per_call"]["drafted"] == 2  # it expects a rejection of every token


def test_the_best_of_several_samples_is_printed(generate):
    options = ("--strategy", "best-of", "--samples", 3, "--temperature", 1)
    values = json.loads(generate(PROMPT, "--json", *options).stdout)
    assert values["stats"]["counters"]["sampled"] > len(values["tokens"]) == NEW


def test_stop_ends_the_text_after_that_token(generate, model):
    tokens = model.generate(PROMPT, NEW).tokens[0].tolist()
    vocabulary = [model.tokenizer.decode([token]) for token in range(264)]
    at, text = next(
        (i, vocabulary[token])
        for i, token in enumerate(tokens)
        if i > 0 and token not in tokens[:i] and model.tokenizer.encode(vocabulary[token]) == [token]
    )
    values = json.loads(generate(PROMPT, "--json", "--stop", text).stdout)
    assert values["tokens"] == tokens[: at + 1]


@pytest.mark.sweep
def test_stop_strings_end_the_text_before_them(generate, model):
    text = text_of(model)
    string = text[3:6]
    expected = text_of(model, stop_strings=string)
    assert expected == text[: text.index(string)] != text
    for options in ((), ("--no-stream",)):
        assert generate(PROMPT, "--stop-string", string, *options).stdout == expected + "\n"


def test_chat_puts_the_prompt_into_the_template(generate, model):
    ids = model.tokenizer.encode("u: the cat\na:")
    assert generate(PROMPT, "--chat").stdout == text_of(model, ids) + "\n"


def test_the_timing_line_can_be_left_out(generate):
    loud, quiet = generate(PROMPT), generate(PROMPT, "--quiet")
    assert re.search(r"^\d+ tokens in [\d.]+ s: [\d.]+ tokens/s.*model loaded in", loud.stderr)
    assert quiet.stderr == "" and quiet.stdout == loud.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--file", __file__), "give a prompt or --file, not both"),
        (("--stop", "the cat sat"), r"--stop 'the cat sat' is \d+ tokens"),
        (("--logprobs", 1), "--logprobs needs --json"),
        (("--recommended", "--top-k", 3), "leave out --top-k"),
        (("--strategy", "speculative"), "--strategy speculative needs --draft"),
        (("--draft", "tiny-mamba2"), "--draft belongs to --strategy speculative"),
        (("--strategy", "prompt-lookup", "--draft", "x"), "--draft belongs to --strategy speculative"),
        (("--strategy", "jacobi", "--threshold", 0.5), "--threshold belongs to --strategy early-exit"),
        (("--strategy", "best-of"), "--strategy best-of draws its samples; give --temperature"),
        (("--strategy", "first-layers"), "--strategy first-layers needs --draft-layers"),
        (("--strategy", "first-layers", "--draft-layers", 99), "layers=99"),
        (("--strategy", "mtp"), "MTP"),
        (("--strategy", "jacobi", "--draft-length", "whole"), "--draft-length belongs to --strategy spec"),
        (("--strategy", "suffix", "--draft-length", "confident"), "draft=SuffixDecoding.* does not ask"),
        (
            (
                "--strategy",
                "speculative",
                "--draft",
                "x",
                "--draft-length",
                "whole",
                "--acceptance-head",
                "y",
            ),
            "--draft-length and --acceptance-head are two ways to end drafts",
        ),
        (("--logit-bias", "5"), "--logit-bias must be a token id and a number, such as 42=-1.5, got '5'"),
        (("--logit-bias", "264=1"), "LogitBias names token 264, which lies outside the vocabulary 0 to 263"),
        (("--no-repeat-ngram", 0), "size must be a whole number >= 1 .*got 0"),
        (("--strategy", "jacobi", "--draft-tokens", 0), "--draft-tokens must be at least 1, got 0"),
        (("--temperature", 0), "temperature must be a finite number > 0, got 0"),
        (("--max-new-tokens", 0), "max_new_tokens must be a whole number >= 1 .*, got 0"),
        (("--revision", "main"), "not a Hugging Face repository"),
        (("-n", 10**20), "max_new_tokens must be a whole number .*, got 100000000000000000000"),
        (("--seed", -1), "seed must be a whole number >= 0 .*, got -1"),
        (("--seed", 2**64), "seed must be a whole number .*, got 18446744073709551616"),
        (("--stop", "\udcff"), "--stop has half of a surrogate pair"),
        (("--repetition-penalty", 0), "--repetition-penalty: penalty must be a finite number > 0, got 0"),
        (("--presence-penalty", "nan"), "--presence-penalty: penalty must be a finite number, got nan"),
        (("--logit-bias", "3=nan"), "--logit-bias: bias of token 3 must be a finite number, got nan"),
        (("--logit-bias", "9" * 5000), r"such as 42=-1.5, got '9{70,}\.\.\.\n"),
        (
            ("--strategy", "jacobi", "--draft-tokens", 2**31),
            "--draft-tokens must be at most 1073741824, got 2147",
        ),
        (("--strategy", "jacobi", "--draft-tokens", 2**30), r"the logits of 1 rows .* needs [\d,]+ bytes"),
        (("--json", "--logprobs", 265), "top_logprobs=265 exceeds the vocabulary's 264 tokens"),
        (("--model", "~nobody-of-this-name/x"), "'~nobody-of-this-name/x' is no path"),
        (("--model", "x" * 5000), r"x\.\.\. cannot be read: File name too long"),
    ],
)
def test_bad_options_are_named(generate, arguments, message):
    result = generate(PROMPT, *arguments, code=2)
    assert result.stdout == "" and re.search(message, result.stderr), result.stderr


def test_texts_that_are_no_utf8_or_too_large_are_named(generate, run, tmp_path, monkeypatch):
    monkeypatch.setattr(common, "LARGEST_TEXT", 1000)
    file = tmp_path / "latin.txt"
    for content, message in (
        (b"caf\xe9 ", r"is not UTF-8 text \(byte 0xe9 at offset 3\); re-encode it"),
        (b"x" * 1001, "holds more than 1,000 bytes; give a shorter text"),
    ):
        file.write_bytes(content)
        for command in (generate, lambda *given, **code: run("inspect", *given, **code)):
            assert re.search(rf"--file '.*latin.txt' {message}", command("--file", file, code=2).stderr)
        assert re.search(f"standard input {message}", generate(stdin=content, code=2).stderr)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_named_pipes(generate, model, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "is a pipe that nobody writes to" in generate("--file", pipe, code=2).stderr
    held = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # keeps what is written, as a shell's <(...) does
    writer = os.open(pipe, os.O_WRONLY)
    os.write(writer, PROMPT.encode())
    os.close(writer)
    assert generate("--file", pipe).stdout == text_of(model) + "\n"
    os.close(held)


def test_a_file_that_is_not_there(generate):
    assert "does not exist" in generate("--file", "nowhere.txt", code=2).stderr


def test_a_model_without_a_tokenizer(run, model_dir, tmp_path):
    jm.save(dataclasses.replace(jm.load(model_dir), tokenizer=None), tmp_path / "bare")
    error = run("generate", "x", "--model", tmp_path / "bare", code=2).stderr
    assert "has no tokenizer.json" in error


def test_a_terminal_without_a_prompt_is_not_waited_for(monkeypatch):
    class Terminal:
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    with pytest.raises(ValueError, match="no prompt: give one"):
        _read_prompt(None, None)


def test_the_bundled_model_is_the_default(run):
    values = json.loads(run("generate", "def fibonacci(n):", "-n", 8, "--json").stdout)
    assert values["model"] == "tiny-mamba2"
    assert values["text"] and values["lengths"]["new"] >= 1
