"""Experts in host memory: what a decoding step fetches, by how many are kept and how many come ahead.

    python -m benchmarks.kept_experts

Held-out Python source is fed to a bundled mixture token by token, as decoding would, by the program that
fetches, and the layers' own counts are reported. Nothing is timed: it counts experts.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxmodels as jm
from benchmarks.common import Result, Table, argument_parser, publish
from jaxmodels.layers.moe import MoE
from jaxmodels.layers.moe.routing import RouterContext
from jaxmodels.layers.spec import walk
from jaxmodels.models.block import Stream
from jaxmodels.models.cache import with_kept
from jaxmodels.training.data import STDLIB_HELD_OUT, read_text, resolve_files

MODEL = "tiny-hybrid-moe"
KEPT = (2, 4, 8)
AHEAD = (0, 1, 2)
FILES, TOKENS = 4, 512


def texts(model: Any, files: int, tokens: int) -> list[list[int]]:
    """The beginnings of held-out files of at least so many tokens."""
    found = []
    for file in resolve_files([STDLIB_HELD_OUT]):
        ids = model.tokenizer.encode(read_text(file))
        if len(ids) >= tokens:
            found.append(ids[:tokens])
        if len(found) == files:
            break
    return found


def fetches(model: Any, ids: Sequence[Sequence[int]]) -> float:
    """Experts that a layer fetches for a token, the mean."""
    config, count = model.config, 0

    @jax.jit
    def read(params: Any, tokens: jax.Array, cache: Any) -> Any:
        def step(cache: Any, token: jax.Array) -> tuple[Any, None]:
            _, pending = config.peek(params, token.reshape(1, 1), cache)
            return config.commit(pending), None

        return lax.scan(step, with_kept(config, params, cache), tokens)[0].kept

    for text in ids:
        cache = config.init_cache(1, len(text), config.dtype_of(model.params))
        kept = [one for one in read(model.params, jnp.asarray(text), cache) if one is not None]
        count += sum(int(one.fetches) for one in kept)
    return count / (len(kept) * sum(map(len, ids)))


def guesses(model: Any, ids: Sequence[Sequence[int]]) -> dict[str, float]:
    """The share of chosen experts that are among as many guessed ones: by the layer's router, for the stream
    in front of the mixer before it, and in front of the mixture before that, which the first has not."""
    config, hits = model.config, {kind: list[float]() for kind in ("first", "mixer", "mixture")}
    names = ["embeddings", *(f"blocks/{i}" for i in range(len(config.blocks)))]
    mixtures = [i for i, block in enumerate(config.blocks) if isinstance(block.ffn, MoE)]
    seen = jax.jit(lambda params, tokens: config.forward_scored(params, tokens, taps=names).taps)
    for text in ids:
        taps = seen(model.params, jnp.asarray([text]))
        for number, i in enumerate(mixtures):
            before = {"mixer": i - 1, "mixture": mixtures[number - 1]} if number else {"first": i - 1}
            chosen = _chosen(model, i, taps[names[i]])
            for kind, block in before.items():
                guessed = _chosen(model, i, taps[names[block]])
                hits[kind].append(float((chosen[..., None] == guessed[..., None, :]).any(-1).mean()))
    return {kind: float(np.mean(shares)) for kind, shares in hits.items()}


def _chosen(model: Any, i: int, hidden: jax.Array) -> np.ndarray:
    """The experts that mixture i would choose in front of such a stream."""
    block, params = model.config.blocks[i], model.config.block_params(model.params, i)
    x = block.expected_ffn_input(params, Stream(hidden=hidden, embedded=hidden))
    return np.asarray(block.ffn.router(params["ffn"]["router"], x, RouterContext()).experts)


def measure(files: int, tokens: int) -> Result:
    """All ways of keeping and fetching ahead, on the same tokens."""
    here = jm.load(MODEL)
    ids = texts(here, files, tokens)
    mixtures = [block.ffn for block in here.config.blocks if isinstance(block.ffn, MoE)]
    chosen = mixtures[0].router.top_k
    one = sum(
        leaf[0].nbytes
        for path, leaf in walk(here.params)
        if "/experts/w_" in path and path.startswith(f"blocks/{here.config.blocks.index(_first(here))}/")
    )
    rows: list[tuple[str, float, float, float]] = [("none", chosen, chosen * one * len(mixtures) / 1e6, 0.0)]
    values: dict[str, Any] = {"fetches (none kept)": chosen}
    for kept in KEPT:
        for ahead in AHEAD if kept < mixtures[0].experts.num_experts else (0,):
            mean = fetches(jm.load(MODEL, experts=jm.HostExperts(kept=kept, ahead=ahead)), ids)
            values[f"fetches (kept {kept}, ahead {ahead})"] = mean
            behind = (mean - ahead) / chosen
            rows.append((f"{kept}, {ahead} ahead", mean, mean * one * len(mixtures) / 1e6, 1 - behind))
    found = guesses(here, ids)
    values |= {f"guessed ({kind})": share for kind, share in found.items()}
    return Result(
        name="kept_experts",
        title="Experts in host memory, kept and fetched ahead",
        method=(
            f"{MODEL}: {len(mixtures)} mixtures of {mixtures[0].experts.num_experts} experts, {chosen} per "
            f"token, in float32; the first {tokens} tokens of {len(ids)} held-out files of the standard "
            "library, fed one by one. Counted by the layers; nothing is timed."
        ),
        values=values,
        tables=[
            Table(
                caption="What a layer fetches for a token",
                columns=("kept", "experts", "MB per token, all layers", "chosen that are there"),
                rows=rows,
            ),
            Table(
                caption="Chosen experts that are guessed by the layer's own router",
                columns=("from the stream", "share"),
                rows=[
                    ("in front of the mixer before it, the first mixture", found["first"]),
                    ("the same, the others", found["mixer"]),
                    ("in front of the mixture before that, the others", found["mixture"]),
                ],
            ),
        ],
    )


def _first(model: Any) -> Any:
    return next(block for block in model.config.blocks if isinstance(block.ffn, MoE))


def main() -> None:
    parser = argument_parser(__doc__)
    arguments = parser.parse_args()
    publish(measure(*((1, 32) if arguments.quick else (FILES, TOKENS))), arguments)


if __name__ == "__main__":
    main()
