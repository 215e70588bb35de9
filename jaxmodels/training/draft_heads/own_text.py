"""Text that a model goes on with by itself: what its draft heads will draft, and so what they train on best.

``python -m jaxmodels.training.draft_heads.own_text tiny-qwen3 stdlib:train own_text.npy`` writes a file of
tokens that recipes can name among their `train_files`. Each window begins with tokens of the text, at a
random place, and goes on as the model does greedily. Recipes whose `sequence_length` is `window` read them
whole.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

import jaxmodels.io
from jaxmodels.checkpoints.hub import resolve
from jaxmodels.checks import whole
from jaxmodels.model import Model
from jaxmodels.training.data import load_tokens, resolve_files
from jaxmodels.training.tokenizer import load_tokenizer


def own_text(
    model: Model,
    text: Int[np.ndarray, " tokens"],
    *,
    windows: int,
    window: int = 256,
    prompt: int = 64,
    batch_size: int = 128,
    seed: int = 0,
) -> Int[np.ndarray, "windows window"]:
    """Windows that begin with `prompt` tokens of a text and go on as the model does greedily.

    Raises:
        ValueError: a size below 1, no room behind a prompt, or a text that is shorter than a prompt.
    """
    whole("windows", windows, low=1)
    whole("batch_size", batch_size, low=1)
    whole("prompt", prompt, low=1, high=window - 1)
    prompts = random_prompts(text, windows, prompt, seed)
    parts = []
    for first in range(0, windows, batch_size):
        some = prompts[first : first + batch_size]
        out = model.generate(some, window - prompt, stop_tokens=[])
        parts.append(np.concatenate([some, np.asarray(out.tokens)], axis=1))
    return np.concatenate(parts)


def random_prompts(
    text: Int[np.ndarray, " tokens"], count: int, size: int, seed: int
) -> Int[np.ndarray, "count size"]:
    """Parts of a text of so many tokens each, at random places.

    Raises ValueError where the text is shorter than one.
    """
    if len(text) < size:
        raise ValueError(f"the text has {len(text)} tokens, fewer than one prompt of {size}")
    starts = np.random.default_rng(seed).integers(len(text) - size + 1, size=count)
    return np.stack([text[start : start + size] for start in starts]).astype(np.int32)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog="own_text", description=__doc__)
    parser.add_argument("model", help="a model directory, hub id or bundled name")
    parser.add_argument("files", help="what the prompts are from, as in a recipe's train_files")
    parser.add_argument("output", type=Path, help="the .npy file to write")
    for name, default in (("windows", 1664), ("window", 256), ("prompt", 64), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args(arguments)
    model = jaxmodels.io.as_language_model(jaxmodels.io.load(given.model), given.model)
    tokenizer, vocabulary = load_tokenizer(resolve(given.model)), model.config.vocab_size
    text = load_tokens(resolve_files((given.files,)), vocabulary, tokenizer)
    sizes = {name: getattr(given, name) for name in ("windows", "window", "prompt", "seed")}
    tokens = own_text(model, text, **sizes).reshape(-1)
    np.save(given.output, tokens.astype(np.uint16 if vocabulary <= 2**16 else np.int32))


if __name__ == "__main__":
    main()
