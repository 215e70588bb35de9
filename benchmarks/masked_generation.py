"""Masked generation against the published sampler in PyTorch, on the same weights.

    python -m benchmarks.masked_generation

The published sampler is LLaDA's: in every step the model reads prompt and answer whole, all logits are made,
and the most confident places of the block are filled in by the schedule. It is written here from its rule
around a Llama of transformers that attends both ways. Ours runs the same rule, then with a threshold and
with caches; the tokens that agree are counted: rounding decides between places of nearly equal confidence.
They take turns.
"""

import functools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import torch
import transformers

import jaxmodels as jm
from benchmarks.common import Result, Table, Target, argument_parser, cores, in_turns, publish, seconds
from jaxmodels.decoding import MaskedDiffusion
from jaxmodels.decoding.masked import D2Cache, DLLMCache, Dual, FixedBlocks, PrefixCache, Threshold
from jaxmodels.decoding.masked.unmask import Quota
from jaxmodels.decoding_bench.prompts import held_out_prompts
from jaxmodels.layers.masks import BIDIRECTIONAL, CAUSAL
from jaxmodels.models.filling import MaskFilling

PROMPTS, PROMPT_TOKENS = 4, 64
# LLaDA's vocabulary on a body that a processor can run a few hundred times.
RANDOM = {
    "model_type": "llama",
    "hidden_size": 384,
    "intermediate_size": 1152,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 4096,
    "rope_theta": 500000.0,
    "vocab_size": 126464,
    "tie_word_embeddings": False,
}
RANDOM_MASK = 126336
MODELS = ("tiny-llada", "random weights")


@dataclass(frozen=True, kw_only=True)
class Contest:
    """One model on both sides, its prompts, and how much is asked for.

    Attributes:
        model: ours.
        peer: the same weights in transformers.
        prompts: i32[N, S], each answered by itself.
        new: tokens of an answer.
        block: tokens of a block.
    """

    model: jm.Model
    peer: Any
    prompts: np.ndarray
    new: int
    block: int

    def ours(self, strategy: MaskedDiffusion) -> list[jm.Generation]:
        return [self.model.generate(row[None], self.new, strategy, stop_tokens=[]) for row in self.prompts]

    def published(self) -> np.ndarray:
        """The answers by LLaDA's sampler, one token per step."""
        filling = self.model.config.filling
        assert filling is not None
        given = self.new, self.block, filling.mask_token
        return np.stack([published_sampler(self.peer, row, *given) for row in self.prompts])


@torch.inference_mode()
def published_sampler(
    model: Any, prompt: np.ndarray, new: int, block: int, mask_token: int, per_step: int = 1
) -> np.ndarray:
    """LLaDA's rule at temperature 0: i64[new]. Each step makes all logits, softmaxes and proposals."""
    size = len(prompt) + new
    canvas = torch.full((1, size), mask_token)
    canvas[0, : len(prompt)] = torch.from_numpy(prompt.astype(np.int64))
    everyone = torch.zeros((1, 1, size, size))
    for start in range(len(prompt), size, block):
        for _ in range(block // per_step):
            unknown = canvas == mask_token
            logits = model(canvas, attention_mask=everyone, use_cache=False).logits
            logits[..., mask_token] = -torch.inf
            proposed = logits.argmax(-1)
            confidence = torch.softmax(logits, -1).gather(-1, proposed[..., None])[..., 0]
            confidence[:, start + block :] = -torch.inf
            confidence = torch.where(unknown, confidence, -torch.inf)
            chosen = confidence[0].topk(per_step).indices
            canvas[0, chosen] = proposed[0, chosen]
    return canvas[0, len(prompt) :].numpy()


def bundled(new: int, block: int) -> Contest:
    """The bundled model, whose confidence means something, on beginnings of held-out files."""
    model = jm.load("tiny-llada", dtype="float32")
    assert model.tokenizer is not None
    return _contest(model, held_out_prompts(model.tokenizer, PROMPTS, PROMPT_TOKENS), new, block)


def random(new: int, block: int, *, quick: bool) -> Contest:
    """Random weights under LLaDA's vocabulary."""
    tiny = {"hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 2} if quick else {}
    config = replace(
        jm.config_from_hf(RANDOM | tiny), mask=BIDIRECTIONAL, filling=MaskFilling(mask_token=RANDOM_MASK)
    )
    prompts = np.random.default_rng(0).integers(0, 1000, (1, 32)).astype(np.int32)
    return _contest(jm.init(config, seed=0), prompts, new, block)


def _contest(model: jm.Model, prompts: np.ndarray, new: int, block: int) -> Contest:
    torch.set_num_threads(cores())
    causal = replace(model, config=replace(model.config, mask=CAUSAL, filling=None, family="llama"))
    with tempfile.TemporaryDirectory() as directory:
        jm.save(causal, directory)
        peer = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return Contest(model=model, peer=peer.eval(), prompts=prompts, new=new, block=block)


def strategies(block: int) -> Mapping[str, MaskedDiffusion]:
    """The published rule, and what is faster."""
    published = MaskedDiffusion(blocks=FixedBlocks(block), unmask=Quota())
    threshold = replace(published, unmask=Threshold(0.9))
    return {
        "the same rule": published,
        "the same rule, dual cache": replace(published, cache=Dual()),
        "threshold 0.9": threshold,
        "threshold 0.9, prefix cache": replace(threshold, cache=PrefixCache()),
        "threshold 0.9, dual cache": replace(threshold, cache=Dual()),
        "threshold 0.7, dual cache": replace(published, unmask=Threshold(0.7), cache=Dual()),
        "threshold 0.9, dLLM-Cache": replace(threshold, cache=DLLMCache()),
        "threshold 0.9, d2Cache": replace(threshold, cache=D2Cache(budget=block)),
    }


def measure(contest: Contest, rounds: int) -> tuple[dict[str, Any], list[list[str | float | None]]]:
    """Seconds per answer of each contestant, and the rows of its table."""
    expected, made = contest.published(), strategies(contest.block)
    calls, agreement = {}, {}
    for name, strategy in made.items():
        found = contest.ours(strategy)  # compiles
        calls[name] = float(np.mean([one.stats.counters["calls"] for one in found]))
        agreement[name] = float((np.concatenate([one.tokens for one in found]) == expected).mean())
    clocks: dict[str, Callable[[], float]] = {
        "published sampler, PyTorch": lambda: seconds(contest.published)
    }
    clocks |= {name: functools.partial(_clock, contest, strategy) for name, strategy in made.items()}
    timings = in_turns(clocks, rounds)
    peer = timings["published sampler, PyTorch"].median
    values = {
        name: {
            "seconds": it.runs,
            "calls": calls.get(name, contest.new),
            "agreement": agreement.get(name, 1.0),
        }
        for name, it in timings.items()
    }
    rows: list[list[str | float | None]] = [
        [name, it.median, peer / it.median, values[name]["calls"], values[name]["agreement"]]
        for name, it in timings.items()
    ]
    return values, rows


def _clock(contest: Contest, strategy: MaskedDiffusion) -> float:
    return seconds(lambda: [one.tokens for one in contest.ours(strategy)])


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="turns of every measurement")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="which to measure")
    arguments = parser.parse_args()
    new, block = 256, 32
    if arguments.quick:
        new, block, arguments.rounds = 16, 8, 1
    values, tables, targets = {}, [], []
    for name in arguments.models:
        contest = bundled(new, block) if name == "tiny-llada" else random(new, block, quick=arguments.quick)
        values[name], rows = measure(contest, arguments.rounds)
        speeds = {row[0]: row[2] for row in rows}
        targets += [
            Target(what=f"{name}: {rule}", measured=speeds[rule], sense="at least", aim=aim)
            for rule, aim in (
                ("the same rule", 3.0),
                ("threshold 0.9, dual cache", 8.0),
                ("threshold 0.7, dual cache", 8.0),
            )
        ]
        size = sum(leaf.size for leaf in jax.tree.leaves(contest.model.params))
        tables.append(
            Table(
                caption=f"{name}, {size / 1e6:.1f} million parameters",
                columns=["sampler", "s", "speed", "model calls", "same tokens"],
                rows=rows,
            )
        )
    publish(
        Result(
            name="masked_generation",
            title="Masked generation against the published sampler",
            method=f"Batch 1, {new} new tokens in blocks of {block}, float32, greedy, medians of "
            f"{arguments.rounds} turns. The bundled model answers {PROMPTS} beginnings of held-out files, "
            "random weights one random prompt. The published sampler of LLaDA reads the whole sequence and "
            "makes all logits in each of its steps, one per token of the answer; `speed` is its time over "
            "the row's, calls are per answer, and the last column is the share of tokens that are the same. "
            "Random weights are hardly ever sure, so that a threshold fills in one token per step.",
            values=values,
            tables=tables,
            targets=targets,
        ),
        arguments,
    )


if __name__ == "__main__":
    main()
