"""Early exits and skipped blocks against decoding with all blocks: time, and what is kept of the predictions.

    python -m benchmarks.depth

A trained model of 12 blocks whose shallow exits are good, as it is and in the shape of 100 million parameters
(`benchmarks.grown`), where a block costs more and what is beside the blocks less. The larger model makes the
same predictions, so that these are measured on the small one alone. `jaxmodels bench depth` measures any
other model so.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import jax.numpy as jnp
import numpy as np

import jaxmodels as jm
from benchmarks.common import Result, Table, Target, Timing, argument_parser, in_turns, publish, seconds
from benchmarks.grown import grown
from jaxmodels.decoding import AdaptiveDepth, Autoregressive, ParallelFilling
from jaxmodels.decoding.depth import (
    AmongTokens,
    Confidence,
    LoRADrop,
    MaxProbability,
    ProbabilityGap,
    UntilConfident,
    layers_for_speed_up,
    speed_up_of,
)
from jaxmodels.decoding_bench.measure import Exam, answered
from jaxmodels.decoding_bench.prompts import held_out_prompts
from jaxmodels.depth_bench.contestants import PLAIN, Contestant
from jaxmodels.depth_bench.measure import Trial, sit
from jaxmodels.models.decoder import Decoder
from jaxmodels.training.data import read_text
from jaxmodels.training.draft_heads.run import frequent_tokens
from jaxmodels.training.stdlib_corpus import stdlib_split

MODEL = "tiny-qwen3-exits"
SHAPE_100M = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
}
OWN, LARGE = "as it is", "100M shape"
# Names of the ways that the aims are of.
EXITS = ("largest probability", "lead", "lead among few tokens", "filled in parallel")
SKIPPED, REUSED = "left out", "updates left out between anchors"
PROMPT, ROWS, KEPT, LOST = 64, 8, 0.98, 0.005
FEW, COUNTED = 256, 60  # tokens that are told apart, and files in which they are frequent
FEW_TEXTS = 2  # that are continued in the larger shape
METHOD = (
    "tiny-qwen3-exits, 12 blocks, float32, greedy, batch 1, {count} held-out sources of 64 tokens continued "
    "by {new} ({few} of them in the larger shape), medians of {rounds} turns. Speed is over decoding with "
    "all blocks. Agreement: next tokens that are the model's, with its own answers given and with held-out "
    "text given; points of next-token accuracy lost and bits per byte are of the held-out text."
)
Field = Sequence[Contestant]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model and the ways to decode it, which are the same for all shapes but for the width of arrays."""

    name: str
    model: jm.Model
    field: Field


def field_of(model: jm.Model, few: np.ndarray) -> Field:
    """All blocks, then the ways that are compared."""
    decoder = model.decoder
    made = [Contestant(kind=PLAIN, value=None, strategy=Autoregressive())]
    for threshold in (0.5, 0.6, 0.7, 0.8):
        made.append(_leaving(EXITS[0], MaxProbability(), threshold, (3,)))
    for threshold in (0.5, 0.7):
        made.append(_leaving(EXITS[1], ProbabilityGap(), threshold, (2, 5)))
    for threshold in (0.5, 0.6, 0.7):
        confidence = AmongTokens(tokens=few, confidence=ProbabilityGap())
        made.append(_leaving(EXITS[2], confidence, threshold, (3, 5)))
    for threshold in (0.5, 0.6):
        filled = ParallelFilling(layers=4, threshold=jnp.float32(threshold))
        made.append(Contestant(kind=EXITS[3], value=threshold, strategy=filled))
    for speed_up in (1.25, 1.5, 2.0):
        skipping = AdaptiveDepth(depth=layers_for_speed_up(decoder, speed_up))
        made.append(Contestant(kind=SKIPPED, value=speed_up, strategy=skipping))
    for period in (4, 8):
        made.append(Contestant(kind=REUSED, value=period, strategy=_between_anchors(decoder, period)))
    return made


def _leaving(kind: str, confidence: Confidence, threshold: float, asked: tuple[int, ...]) -> Contestant:
    policy = UntilConfident(
        confidence=confidence, threshold=jnp.float32(threshold), min_layers=asked[0] + 1, asked=asked
    )
    return Contestant(kind=kind, value=threshold, strategy=AdaptiveDepth(depth=policy))


def _between_anchors(decoder: Decoder, period: int) -> AdaptiveDepth:
    """LoRA-Drop of the last five blocks without adapters, which adds nothing between anchors."""
    dropped = tuple(range(len(decoder.blocks) - 5, len(decoder.blocks)))
    zeros = jnp.zeros((len(dropped), 1, decoder.d_model))
    policy = LoRADrop(
        down=zeros, up=zeros.swapaxes(1, 2), dropped=dropped, period=period, share=0.0, reused="update",
        unread="propagate",
    )  # fmt: skip
    return AdaptiveDepth(depth=policy)


def speeds(shape: Shape, texts: np.ndarray, rounds: int) -> dict[str, float]:
    """How many times as fast as all blocks each way continues the texts, one at a time."""
    exam = Exam(prompts=texts[:, :PROMPT], new=texts.shape[1] - PROMPT)
    runs = {one.name: functools.partial(answered, shape.model, one.strategy, exam) for one in shape.field}
    return _against_plain(runs, rounds)


def batch_speeds(shape: Shape, texts: np.ndarray, rounds: int) -> dict[str, float]:
    """The same with all texts in one batch, against the exit that waits for the slowest row."""
    waiting = next(one for one in shape.field if one.kind == EXITS[0])
    filled = next(one for one in shape.field if one.kind == EXITS[3])
    ways = {PLAIN: Autoregressive(), "waits for the slowest row": waiting.strategy, EXITS[3]: filled.strategy}
    runs = {
        name: functools.partial(
            shape.model.generate, texts[:, :PROMPT], texts.shape[1] - PROMPT, strategy, stop_tokens=[],
            stop_strings=[],
        )
        for name, strategy in ways.items()
    }  # fmt: skip
    return _against_plain(runs, rounds)


def _against_plain(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    for run in runs.values():
        run()  # compiles
    timings: Mapping[str, Timing] = in_turns(
        {name: functools.partial(seconds, run) for name, run in runs.items()}, rounds
    )
    return {name: timings[PLAIN].median / timing.median for name, timing in timings.items()}


def targets(
    found: Sequence[Trial],
    by_shape: Mapping[str, Mapping[str, float]],
    batch: Mapping[str, float],
    decoder: Decoder,
) -> list[Target]:
    """The fastest exit that keeps the predictions, anchors, and what is kept of a promised speed-up."""
    made = []
    for shape, speed in by_shape.items():
        exits = [speed[_name(it)] for it in found if it.kind in EXITS and (it.agreement or 0) >= KEPT]
        reused = [speed[_name(it)] for it in found if it.kind == REUSED and (it.accuracy_lost or 0) <= LOST]
        promised = {f"{SKIPPED}, {it.value:g}": it for it in found if it.kind == SKIPPED and it.value}
        kept = [speed[name] / _promised(decoder, it) for name, it in promised.items()]
        made += [
            Target(
                what=f"{shape}: fastest exit of {KEPT:.0%} agreement",
                measured=max(exits, default=0.0),
                sense="at least",
                aim=1.5,
            ),
            Target(
                what=f"{shape}: {REUSED}, at most {100 * LOST:g} points lost",
                measured=max(reused, default=0.0),
                sense="at least",
                aim=1.4,
            ),
            Target(
                what=f"{shape}: least share of the promise of blocks left out",
                measured=min(kept, default=0.0),
                sense="at least",
                aim=0.95,
            ),
        ]
    over = batch[EXITS[3]] / batch["waits for the slowest row"]
    made.append(
        Target(what=f"{ROWS} rows: over waiting for the slowest", measured=over, sense="at least", aim=1.2)
    )
    return made  # fmt: skip


def _promised(decoder: Decoder, trial: Trial) -> float:
    return speed_up_of(decoder, layers_for_speed_up(decoder, trial.value or 1.0))


def _name(trial: Trial) -> str:
    return Contestant(kind=trial.kind, value=trial.value, strategy=Autoregressive()).name


def tables(
    found: Sequence[Trial],
    by_shape: Mapping[str, Mapping[str, float]],
    batches: Mapping[str, Mapping[str, float]],
) -> list[Table]:
    shapes = list(by_shape)
    return [
        Table(
            caption="Speed, blocks per token and share of next tokens kept",
            columns=["way", "at", "blocks", *(f"speed, {shape}" for shape in shapes), "agreement",
                     "on held-out text", "points lost", "bits per byte"],
            rows=[
                [it.kind, it.value, it.blocks, *(by_shape[shape][_name(it)] for shape in shapes),
                 it.agreement, it.held_out_agreement,
                 None if it.accuracy_lost is None else 100 * it.accuracy_lost, it.bits_per_byte]
                for it in found
            ],
        ),
        Table(
            caption=f"Speed of {ROWS} rows in one batch",
            columns=["way", *batches],
            rows=[[name, *(batch[name] for batch in batches.values())]
                  for name in next(iter(batches.values()))],
        ),
    ]  # fmt: skip


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--model", default=MODEL, help="the model, of 12 blocks in the family of Qwen3")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every measurement")
    arguments = parser.parse_args()
    rounds, count, new = (1, 2, 6) if arguments.quick else (arguments.rounds, ROWS, 96)
    model = jm.load(arguments.model, "float32")
    assert model.tokenizer is not None
    texts = held_out_prompts(model.tokenizer, count, PROMPT + new)
    read = [model.tokenizer.encode(read_text(path)) for path in stdlib_split().train[:COUNTED]]
    counts = np.bincount(np.concatenate(read), minlength=model.decoder.vocab_size)
    few = np.asarray(frequent_tokens(jnp.asarray(counts), FEW))
    shapes = [Shape(name=OWN, model=model, field=field_of(model, few))]
    if not arguments.quick:
        large = grown(model, SHAPE_100M)
        shapes.append(Shape(name=LARGE, model=large, field=field_of(large, few)))
    found = list(sit(model, shapes[0].field, texts, prompt=PROMPT, rounds=1))
    some = {OWN: texts, LARGE: texts[:FEW_TEXTS]}
    by_shape = {shape.name: speeds(shape, some[shape.name], rounds) for shape in shapes}
    batches = {shape.name: batch_speeds(shape, texts, rounds) for shape in shapes}
    publish(
        Result(
            name="depth",
            title="Early exits and skipped blocks",
            method=METHOD.format(count=count, new=new, few=FEW_TEXTS, rounds=rounds),
            values={"trials": [asdict(it) for it in found], "speed": by_shape, "batch_speed": batches},
            tables=tables(found, by_shape, batches),
            targets=targets(found, by_shape, batches[OWN], model.decoder),
        ),
        arguments,
    )


if __name__ == "__main__":
    main()
