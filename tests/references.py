"""Models of transformers with random weights, and what they compute: the oracle of the tests of families."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from configurations.case import Case, hf_dict

NEW_TOKENS = 64
# Logits may differ by 1e-4 of the largest: a token that leads by less than this tests nothing.
CLEAR_LEAD = 5e-4
MOST_DRAWS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """A model of transformers, and what it computes.

    directory: its checkpoint. model: the torch module. tokens, logits: i64[2, S] and f32[2, S, V].
    prompts, continuations: rows of token ids, and the `NEW_TOKENS` that greedy decoding appends to each, none
    of which leads the second best by less than `CLEAR_LEAD`; of causal models, else there are none.
    """

    case: Case
    directory: Path
    model: Any
    tokens: np.ndarray
    logits: np.ndarray
    prompts: list[list[int]]
    continuations: np.ndarray

    def logits_in_windows(self, sizes: list[int]) -> np.ndarray:
        """Logits of the first ``sum(sizes)`` tokens where none sees a later one of these windows."""
        end = sum(sizes)
        if self.case.is_causal:
            return self.logits[:, :end]
        window = np.repeat(np.arange(len(sizes)), sizes)
        seen = who_sees_whom(self.case, end) & (window[:, None] >= window[None])
        return _forward(self.model, self.tokens[:, :end], seen)


def who_sees_whom(case: Case, size: int) -> np.ndarray:
    """bool[S, S]: whether each token of a sequence sees each other one."""
    return np.array([[case.sees(query, key) for key in range(size)] for query in range(size)])


def build(case: Case, directory: Path) -> Reference:
    """The reference of a case, its checkpoint in `directory`."""
    rng = np.random.default_rng(case.seed)
    model = random_model(case, rng)
    save(case, model, directory)
    vocab = model.config.vocab_size
    tokens = rng.integers(vocab, size=(2, case.forward_length))
    rows = []
    if case.is_causal:
        decode = functools.partial(_decode_cached if case.cached_reference else _decode_anew, model)
        rows = [_clear_continuation(decode, vocab, length, rng) for length in case.prompt_lengths]
    seen = None if case.is_causal else who_sees_whom(case, case.forward_length)
    return Reference(
        case=case,
        directory=directory,
        model=model,
        tokens=tokens,
        logits=_forward(model, tokens, seen),
        prompts=[prompt for prompt, _ in rows],
        continuations=np.array([continuation for _, continuation in rows]),
    )


def random_model(case: Case, rng: np.random.Generator) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(case.seed)  # decays keep something of their initial values
    built = case if case.stand_in is None else case.stand_in
    config = AutoConfig.for_model(built.family, **built.config)
    config._experts_implementation = "eager"  # the others take sizes that are multiples of 4 alone
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.tensor(perturbed(name, parameter.numpy(), rng)))
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(torch.tensor(0.2 * rng.standard_normal(buffer.shape)))
    return model


def save(case: Case, model: Any, directory: Path) -> None:
    """Writes the checkpoint; that of a stand-in as the family's models are published."""
    from safetensors.torch import load_file, save_file

    model.save_pretrained(directory)
    if case.stand_in is not None:
        file = directory / "model.safetensors"
        save_file(case.stand_in.rename(load_file(file)), file, metadata={"format": "pt"})
        (directory / "config.json").write_text(json.dumps(hf_dict(case)))


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


def perturbed(name: str, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
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


def _forward(model: Any, tokens: np.ndarray, seen: np.ndarray | None = None) -> np.ndarray:
    """Logits [B, S, V]; `seen` [S, S] says who sees whom, where that is not for the model to say."""
    import torch

    mask = (
        None if seen is None else np.where(seen, 0, np.finfo(np.float32).min).astype(np.float32)[None, None]
    )
    with torch.no_grad():
        model(torch.tensor(tokens[:, :2]))  # dynamic rotary embeddings remember the longest sequence seen
        given = {} if mask is None else {"attention_mask": torch.tensor(mask)}
        return model(torch.tensor(tokens), use_cache=False, **given).logits.numpy()


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
