"""Drafts that are models, at the shape of 100 million parameters: wall clock against sequential decoding.

    python -m benchmarks.parallel_decode

The target is a bundled model grown to that shape (see `benchmarks.grown`): a call costs what one of 100
million parameters does, and the text is that of the small model. It is drafted for by a model that was
distilled from it, `tiny-qwen3-draft`, and by heads that were trained on its features. A model that was
trained for early exits, as by the recipe `tiny_qwen3_layerskip`, is drafted for by its own first layers:
``--itself runs/layerskip/model``. Prompts are held-out sources; strategies take turns, so that a slow minute
falls on all of them alike.
"""

import functools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

import jaxmodels as jm
from benchmarks.common import Result, Table, Target, Timing, argument_parser, in_turns, publish, seconds
from benchmarks.grown import grown_100m
from benchmarks.grown_heads import head_on_grown
from jaxmodels.decoding import (
    Autoregressive,
    Draft,
    FirstLayers,
    Greedy,
    PromptLookup,
    Sample,
    Sampler,
    Speculative,
    Strategy,
    SuffixDecoding,
)
from jaxmodels.decoding.lengths import GrowShrink
from jaxmodels.decoding_bench.prompts import held_out_prompts
from jaxmodels.layers.spec import count_params

PLAIN = "one at a time"
# How the names of strategies begin whose drafts are models: the aims are theirs.
MODELS = ("distilled draft", "EAGLE-3 head", "MTP module", "first ")
SAMPLERS: Mapping[str, Sampler] = {"greedy": Greedy(), "sampled": Sample(temperature=1.0)}
# Windows of 4 and 8 tokens: few rows are multiplied in multiples of four.
SIZES = (3, 7)
HEAD_SIZE = 3
TARGET, DRAFT = "tiny-qwen3", "tiny-qwen3-draft"
HEADS: Mapping[str, str] = {"EAGLE-3 head": "tiny-qwen3-eagle3", "MTP module": "tiny-qwen3-mtp"}


@dataclass(frozen=True, kw_only=True)
class Contest:
    """A target, its prompts i32[N, S], and the strategies that continue each of them by `new` tokens."""

    target: jm.Model
    prompts: np.ndarray
    strategies: Mapping[str, Strategy]
    new: int

    def run(self, name: str) -> list[jm.Generation]:
        return [
            self.target.generate(row[None], self.new, self.strategies[name], stop_tokens=[], stop_strings=[])
            for row in self.prompts
        ]


def of_a_draft(target: jm.Model, sampler: Sampler, sizes: Sequence[int]) -> dict[str, Strategy]:
    """Sequential decoding, speculation with the distilled draft and with heads at several lengths, and drafts
    from the text, of a length that follows what was accepted."""
    draft, trained = jm.load(DRAFT), jm.load(TARGET)
    small, adaptive = Draft(draft.config, draft.params), GrowShrink(start=3, most=15)
    texts = {"suffix decoding": SuffixDecoding(size=15), "prompt lookup": PromptLookup(size=15)}
    return (
        {PLAIN: Autoregressive(sampler=sampler)}
        | {
            f"distilled draft, {size}": Speculative(draft=small, gamma=size, sampler=sampler)
            for size in sizes
        }
        | {
            f"{name}, {HEAD_SIZE}": Speculative(
                draft=head_on_grown(head, trained, target, HEAD_SIZE), sampler=sampler
            )
            for name, head in HEADS.items()
        }
        | {
            f"{name}, up to 15": Speculative(draft=drafter, length=adaptive, sampler=sampler)
            for name, drafter in texts.items()
        }
    )


def of_itself(target: jm.Model, sampler: Sampler, sizes: Sequence[int]) -> dict[str, Strategy]:
    """Sequential decoding, and speculation with the first fifth of the blocks at several lengths."""
    layers = len(target.decoder.blocks) // 5
    return {PLAIN: Autoregressive(sampler=sampler)} | {
        f"first {layers} layers, {size}": Speculative(
            draft=FirstLayers(layers=layers, size=size), sampler=sampler
        )
        for size in sizes
    }


def measure(contest: Contest, rounds: int, *, same_text: bool) -> tuple[dict[str, Timing], dict[str, float]]:
    """Seconds of all prompts, and the mean number of tokens per call of the target, by strategy."""
    per_call, expected = {}, None
    for name in contest.strategies:
        found = contest.run(name)  # compiles
        tokens = np.concatenate([one.tokens for one in found])
        expected = tokens if expected is None else expected
        if same_text and not np.array_equal(tokens, expected):
            raise RuntimeError(f"{name} gives other tokens than decoding one at a time")
        per_call[name] = statistics.mean(1 + one.stats.per_call.get("accepted", 0.0) for one in found)
    clocks = {
        name: functools.partial(seconds, functools.partial(_tokens, contest, name))
        for name in contest.strategies
    }
    return in_turns(clocks, rounds), per_call


def _tokens(contest: Contest, name: str) -> list[np.ndarray]:
    return [one.tokens for one in contest.run(name)]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="turns of every measurement")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--itself", help="a model trained for early exits, to be drafted for by itself, too")
    parser.add_argument("--modes", nargs="+", choices=list(SAMPLERS), default=list(SAMPLERS))
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="tokens drafted per round")
    parser.add_argument("--new", type=int, default=64, help="tokens of each answer")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.prompts, arguments.new = 1, 1, 8
    rows: list[list[str | float | None]] = []
    runs: dict[str, dict[str, dict[str, object]]] = {}
    targets: list[Target] = []
    contests = [(TARGET, of_a_draft, 1.5)]
    if arguments.itself is not None:
        contests.append((arguments.itself, of_itself, 1.15))
    for source, strategies, aim in contests:
        target = jm.load(source) if arguments.quick else grown_100m(source)
        prompts = held_out_prompts(target.tokenizer, arguments.prompts, 64)
        for mode in arguments.modes:
            contest = Contest(
                target=target,
                prompts=prompts,
                strategies=strategies(target, SAMPLERS[mode], arguments.sizes),
                new=arguments.new,
            )
            timings, per_call = measure(contest, arguments.rounds, same_text=mode == "greedy")
            plain, tokens = timings[PLAIN].median, len(prompts) * arguments.new
            runs[f"{source}, {mode}"] = {
                name: {"all_prompts_s": it.runs, "tokens_per_call": per_call[name]}
                for name, it in timings.items()
            }
            rows += [
                [source, mode, name, plain / it.median, per_call[name], tokens / it.median]
                for name, it in timings.items()
            ]
            best = max(plain / it.median for name, it in timings.items() if name.startswith(MODELS))
            targets.append(Target(what=f"{source}, {mode}", measured=best, sense="at least", aim=aim))
    draft = count_params(jm.load(DRAFT).config.spec()) / 1e6
    publish(
        Result(
            name="parallel_decode",
            title="Drafts that are models, at the shape of 100 million parameters",
            method=f"Batch 1, {arguments.prompts} prompts of 64 tokens of held-out sources, {arguments.new} "
            f"new tokens each, medians of {arguments.rounds} turns, float32. The target is the named model "
            "grown to 100 million parameters, which leaves its function as it is: calls cost what those of "
            "its shape do, the text and so the acceptance are the small model's. The distilled draft has "
            f"{draft:.1f} million parameters, two of the five layers of the small model. Heads keep the "
            "width of the small model, and read its part of the streams. Sampled at temperature 1.",
            values=runs,
            tables=[
                Table(
                    caption="Speed against one token at a time, and tokens per call of the target",
                    columns=["target", "tokens are", "strategy", "speed", "tokens per call", "tokens/s"],
                    rows=rows,
                )
            ],
            targets=targets,
        ),
        arguments,
    )


if __name__ == "__main__":
    main()
