"""What the tests share: models of transformers with random weights, each built once per process.

That this file is here puts the directory on the path of all tests, for the modules beside it.
"""

import dataclasses
import functools
import gc
import itertools
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shape_checks
from configurations import CASES, case_param
from configurations.case import Case

# With the TPU compiler installed, jax would look for a TPU. Set before anything imports jax.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the suite's time is compilation. Less optimisation by LLVM, of a program in one piece, halves it and
# changes no numbers beyond rounding, and nothing of what XLA decides: operations, buffers, aliases.
FAST_COMPILATION = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
)
if FAST_COMPILATION not in (given := os.environ.get("XLA_FLAGS", "")):
    os.environ["XLA_FLAGS"] = f"{given} {FAST_COMPILATION}".strip()
# What one test compiled another finds again, in whichever process: the first to come here, which starts the
# others, makes the directory and removes it at its end.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.TemporaryDirectory(prefix="jaxmodels-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"

shape_checks.install()

NEW_TOKENS = 64
# Logits may differ by 1e-4 of the largest: a token that leads by less than this tests nothing.
CLEAR_LEAD = 5e-4
MOST_DRAWS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """A model of transformers, and what it computes.

    directory: its checkpoint. model: the torch module. tokens, logits: i64[2, S] and f32[2, S, V].
    prompts, continuations: rows of token ids, and the `NEW_TOKENS` that greedy decoding appends to each, none
    of which leads the second best by less than `CLEAR_LEAD`.
    """

    case: Case
    directory: Path
    model: Any
    tokens: np.ndarray
    logits: np.ndarray
    prompts: list[list[int]]
    continuations: np.ndarray


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
        return _build(case, tmp_path_factory.mktemp(case.name))

    return build


@pytest.fixture(params=[case_param(case) for case in CASES])
def reference(request, build_reference):
    """Every case of the table in turn."""
    return build_reference(request.param)


def _build(case: Case, directory: Path) -> Reference:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(1)
    config = AutoConfig.for_model(case.family, **case.config)
    config._experts_implementation = "eager"  # the others take sizes that are multiples of 4 alone
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    rng = np.random.default_rng(case.seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.tensor(_perturbed(name, parameter.numpy(), rng)))
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(torch.tensor(0.2 * rng.standard_normal(buffer.shape)))
    model.save_pretrained(directory)
    vocab = config.vocab_size
    tokens = rng.integers(vocab, size=(2, case.forward_length))
    logits = _forward(model, tokens)
    decode = functools.partial(_decode_cached if case.cached_reference else _decode_anew, model)
    rows = [_clear_continuation(decode, vocab, length, rng) for length in case.prompt_lengths]
    return Reference(
        case=case,
        directory=directory,
        model=model,
        tokens=tokens,
        logits=logits,
        prompts=[prompt for prompt, _ in rows],
        continuations=np.stack([continuation for _, continuation in rows]),
    )


def _clear_continuation(
    decode: Callable[[list[int]], tuple[np.ndarray, np.ndarray]],
    vocab: int,
    length: int,
    rng: np.random.Generator,
) -> tuple[list[int], np.ndarray]:
    """The first random prompt whose continuation has no near tie, and that continuation."""
    leads = []
    for _ in range(MOST_DRAWS):
        prompt = rng.integers(vocab, size=length).tolist()
        tokens, logits = decode(prompt)
        second, first = np.sort(logits, axis=-1)[:, -2:].T
        leads.append(float((first - second).min()))
        if leads[-1] >= CLEAR_LEAD:
            return prompt, tokens
    raise AssertionError(f"{MOST_DRAWS} prompts of {length} tokens all have a near tie; the leads: {leads}")


def _perturbed(name: str, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Nothing stays at its initial value; activations and logits are of the order of one."""
    noise = rng.standard_normal(value.shape)
    if name.endswith(("dt_bias", ".bias")):
        new = 0.5 * noise
    elif value.ndim == 1:  # scales of norms, A_log and D
        new = value + 0.2 * noise
    elif "embed" in name:
        new = 0.5 * noise
    else:
        fan_in = value.shape[-1] if "experts" in name else np.prod(value.shape[1:])
        gain = 0.4 if "shared_transformer" in name else 1.5  # weights and adapters add up in the softmax
        new = gain * noise / np.sqrt(fan_in)
    return new.astype(np.float32)


def _forward(model: Any, tokens: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        model(torch.tensor(tokens[:, :2]))  # dynamic rotary embeddings remember the longest sequence seen
        return model(torch.tensor(tokens), use_cache=False).logits.numpy()


def _decode_cached(model: Any, prompt: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [64] and the logits [64, V] they were chosen from."""
    import torch

    model.generation_config.eos_token_id = None  # as an argument, None would mean this one
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),  # else padding ids would be masked
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    tokens, logits = out.sequences[0, len(prompt) :].numpy(), torch.cat(out.logits).numpy()
    np.testing.assert_array_equal(tokens, logits.argmax(-1))
    return tokens, logits


def _decode_anew(model: Any, prompt: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """`_decode_cached` by a full forward per token."""
    tokens, logits = list(prompt), []
    for _ in range(NEW_TOKENS):
        logits.append(_forward(model, np.array([tokens]))[0, -1])
        tokens.append(int(logits[-1].argmax()))
    return np.array(tokens[len(prompt) :]), np.stack(logits)
