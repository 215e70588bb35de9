"""Early exits and skipped blocks against decoding with all blocks: time, and what is kept of the predictions.

    python -m benchmarks.depth                  # as it is
    python -m benchmarks.depth --shape 100m

A trained model of 12 blocks whose shallow exits are good, as it is or in the shape of 100 million parameters
(`benchmarks.grown`), where a block costs more and what is beside the blocks less. The larger model makes the
same predictions, so that these are always measured on the small one. `jaxmodels bench depth` measures any
other model so.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np

import jaxmodels as jm
from benchmarks.common import Result, Table, Target, argument_parser, in_turns, publish, seconds
from benchmarks.grown import SHAPES_BY_NAME, grown
from jaxmodels.checkpoints.tokenizer import Tokenizer
from jaxmodels.decoding import AdaptiveDepth, Autoregressive, ParallelFilling, Strategy
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
from jaxmodels.depth_bench.measure import predictions
from jaxmodels.models.decoder import Decoder
from jaxmodels.training.data import read_text
from jaxmodels.training.depth.evaluate import compare
from jaxmodels.training.draft_heads.run import frequent_tokens
from jaxmodels.training.stdlib_corpus import stdlib_split

MODEL = "tiny-qwen3-exits"
# What is timed: the model as it is, and in the shape of 100 million parameters.
SHAPES: Mapping[str, Mapping[str, int] | None] = {"own": None, "100m": SHAPES_BY_NAME[MODEL]}
TITLES = {"own": "12 blocks of width 192", "100m": "12 blocks of width 768"}
# Names of the ways that the aims are of.
EXITS = ("largest probability", "lead", "lead among few tokens", "filled in parallel")
SKIPPED, REUSED, WAITING = "left out", "updates left out between anchors", "waits for the slowest row"
PROMPT, ROWS, AGREEMENT, LOST = 64, 8, 0.98, 0.005
FEW, COUNTED = 256, 60  # tokens that are told apart, and files in which they are frequent
FEW_TEXTS = 2  # that are continued in the larger shape
TOLD = 40  # texts in which predictions are told, of which the first are continued
PIECE, EVERY = 128, 5  # tokens of a piece of a held-out file, and which of the pieces are read
METHOD = (
    "tiny-qwen3-exits, 12 blocks, float32, greedy, batch 1, {count} held-out sources of {prompt} tokens "
    "continued by {new}, medians of {rounds} turns. Speed is over decoding with all blocks. Agreement: next "
    "tokens that are the model's, with its own answers given and with held-out text given, in {told} texts; "
    "the accuracy lost and bits per byte are of the held-out text. Thresholds were chosen on these texts. "
    "Whole files: of all held-out files cut into pieces of {piece} tokens, every {every}th piece, of which "
    "the second {prompt} tokens count, with the standard error of the difference. "
    "Blocks of what is filled in parallel are those read before a token is said; later the others read it "
    "too."
)
Field = Sequence[Contestant]


def field_of(model: jm.Model, few: np.ndarray) -> Field:
    """All blocks, then the ways that are compared."""
    decoder = model.decoder
    made = [Contestant(kind=PLAIN, value=None, strategy=Autoregressive())]
    for threshold in (0.5, 0.6, 0.7):
        made.append(_leaving(EXITS[0], MaxProbability(), threshold, (3,)))
    for threshold in (0.5, 0.6, 0.8):
        made.append(_leaving(EXITS[1], ProbabilityGap(), threshold, (2, 5)))
    for threshold in (0.6, 0.7):
        confidence = AmongTokens(tokens=few, confidence=ProbabilityGap())
        made.append(_leaving(EXITS[2], confidence, threshold, (3, 5)))
    for layers, threshold in ((3, 0.6), (3, 0.7), (4, 0.5), (4, 0.6)):
        filled = ParallelFilling(layers=layers, threshold=jnp.float32(threshold))
        made.append(Contestant(kind=f"{EXITS[3]} behind {layers}", value=threshold, strategy=filled))
    for speed_up in (1.25, 2.0):
        skipping = AdaptiveDepth(depth=layers_for_speed_up(decoder, speed_up))
        made.append(Contestant(kind=SKIPPED, value=speed_up, strategy=skipping))
    for last, period in ((5, 4), (5, 6), (5, 8), (4, 16)):
        strategy = _between_anchors(decoder, last, period)
        made.append(Contestant(kind=f"{REUSED}, the last {last}", value=period, strategy=strategy))
    return made


def _leaving(kind: str, confidence: Confidence, threshold: float, asked: tuple[int, ...]) -> Contestant:
    policy = UntilConfident(
        confidence=confidence, threshold=jnp.float32(threshold), min_layers=asked[0] + 1, asked=asked
    )
    return Contestant(kind=kind, value=threshold, strategy=AdaptiveDepth(depth=policy))


def _between_anchors(decoder: Decoder, last: int, period: int) -> AdaptiveDepth:
    """LoRA-Drop of so many last blocks without adapters, which adds nothing between anchors."""
    dropped = tuple(range(len(decoder.blocks) - last, len(decoder.blocks)))
    zeros = jnp.zeros((len(dropped), 1, decoder.d_model))
    policy = LoRADrop(
        down=zeros, up=zeros.swapaxes(1, 2), dropped=dropped, period=period, share=0.0, reused="update",
        unread="propagate",
    )  # fmt: skip
    return AdaptiveDepth(depth=policy)


def speeds(model: jm.Model, field: Field, texts: np.ndarray, rounds: int) -> dict[str, float]:
    """How many times as fast as all blocks each way continues the texts, one at a time."""
    exam = Exam(prompts=texts[:, :PROMPT], new=texts.shape[1] - PROMPT)
    runs = {one.name: functools.partial(answered, model, one.strategy, exam) for one in field}
    return _against_plain(runs, rounds)


def batch_speeds(model: jm.Model, field: Field, texts: np.ndarray, rounds: int) -> dict[str, float]:
    """The same of all texts in one batch, whose rows leave at different depths."""
    leaving = next(one for one in field if one.kind == EXITS[0])
    filled = next(one for one in field if one.kind.startswith(EXITS[-1]))
    ways = {PLAIN: Autoregressive(), WAITING: leaving.strategy, EXITS[-1]: filled.strategy}
    runs = {name: functools.partial(_continued, model, texts, strategy) for name, strategy in ways.items()}
    return _against_plain(runs, rounds)


def _continued(model: jm.Model, texts: np.ndarray, strategy: Strategy) -> np.ndarray:
    prompts, new = texts[:, :PROMPT], texts.shape[1] - PROMPT
    return model.generate(prompts, new, strategy, stop_tokens=[], stop_strings=[]).tokens


def _against_plain(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    for run in runs.values():
        run()  # compiles
    clocks = {name: functools.partial(seconds, run) for name, run in runs.items()}
    timings = in_turns(clocks, rounds)
    return {name: timings[PLAIN].median / timing.median for name, timing in timings.items()}


def predicted(model: jm.Model, field: Field, texts: np.ndarray) -> dict[str, dict[str, float]]:
    """By name, what of a `Trial` is found with the text given."""
    own = np.concatenate([texts[:, :PROMPT], _continued(model, texts, Autoregressive())], axis=1)
    return {one.name: predictions(model, one, own.astype(np.int32), texts, PROMPT) for one in field}


def pieces(tokenizer: Tokenizer) -> np.ndarray:
    """Of all held-out files, cut into pieces, every so many: beginnings and insides as often as there are."""
    read = (tokenizer.encode(read_text(path)) for path in stdlib_split().held_out)
    cut = [tokens[i : i + PIECE] for tokens in read for i in range(0, len(tokens) - PIECE + 1, PIECE)]
    return np.asarray(cut[::EVERY], np.int32)


def settled(model: jm.Model, field: Field, texts: np.ndarray) -> dict[str, dict[str, float]]:
    """Of what is left out between anchors the accuracy lost in many texts, with its standard error."""
    found: dict[str, dict[str, float]] = {}
    for one in field:
        if one.kind.startswith(REUSED) and isinstance(one.strategy, AdaptiveDepth):
            it = compare(model.decoder, model.params, one.strategy.policy, texts, prompt=PROMPT)
            lost = it.accuracy - it.policy_accuracy
            found[one.name] = {"blocks": it.layers, "accuracy_lost": lost, "error": it.lost_error}
    return found


def targets(
    field: Field,
    kept: Mapping[str, Mapping[str, float]],
    speed: Mapping[str, float],
    batch: Mapping[str, float],
    whole: Mapping[str, Mapping[str, float]],
    decoder: Decoder,
) -> list[Target]:
    """The fastest exit that keeps the predictions, anchors, what a promise gives, and rows by themselves."""
    exits = [
        speed[it.name]
        for it in field
        if it.kind.startswith(EXITS) and kept[it.name]["agreement"] >= AGREEMENT
    ]
    reused = [
        speed[it.name]
        for it in field
        if it.kind.startswith(REUSED) and whole[it.name]["accuracy_lost"] <= LOST
    ]
    promises = [
        speed[it.name] / speed_up_of(decoder, layers_for_speed_up(decoder, it.value))
        for it in field
        if it.kind == SKIPPED and it.value is not None
    ]
    rows = batch[EXITS[-1]] / batch[WAITING]
    measured = (
        (f"fastest exit of {AGREEMENT:.0%} agreement", max(exits, default=0.0), 1.5),
        (f"{REUSED}, at most {100 * LOST:g} points lost", max(reused, default=0.0), 1.4),
        ("least share of the promised speed-up of blocks left out", min(promises), 0.95),
        (f"{ROWS} rows, each by itself: over waiting for the slowest", rows, 1.2),
    )
    return [Target(what=what, measured=found, sense="at least", aim=aim) for what, found, aim in measured]


def tables(
    field: Field,
    kept: Mapping[str, Mapping[str, float]],
    speed: Mapping[str, float],
    batch: Mapping[str, float],
    whole: Mapping[str, Mapping[str, float]],
) -> list[Table]:
    columns = ("blocks", "agreement", "held_out_agreement", "accuracy_lost", "bits_per_byte")
    return [
        Table(
            caption="Speed, blocks per token and share of next tokens kept",
            columns=["way", "at", "speed", "blocks", "agreement", "on held-out text", "accuracy lost",
                     "bits per byte"],
            rows=[
                [it.kind, it.value, speed[it.name], *(kept[it.name].get(column) for column in columns)]
                for it in field
            ],
        ),
        Table(
            caption=f"Speed of {ROWS} rows in one batch",
            columns=["way", "speed"],
            rows=[[name, found] for name, found in batch.items()],
        ),
        Table(
            caption="Accuracy lost on whole held-out files",
            columns=["way", "blocks", "accuracy lost", "standard error"],
            rows=[[name, *found.values()] for name, found in whole.items()],
        ),
    ]  # fmt: skip


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--model", default=MODEL, help="the model, of 12 blocks in the family of Qwen3")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="own", help="what is timed")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every measurement")
    arguments = parser.parse_args()
    rounds, count, new = (1, 2, 6) if arguments.quick else (arguments.rounds, TOLD, 64)
    small = jm.load(arguments.model, "float32")
    assert small.tokenizer is not None
    told = held_out_prompts(small.tokenizer, count, PROMPT + new)
    texts = told[:ROWS]
    read = [small.tokenizer.encode(read_text(path)) for path in stdlib_split().train[:COUNTED]]
    counts = np.bincount(np.concatenate(read), minlength=small.decoder.vocab_size)
    few = np.asarray(frequent_tokens(jnp.asarray(counts), FEW))
    on_small = field_of(small, few)
    kept = predicted(small, on_small, told)
    whole = settled(small, on_small, pieces(small.tokenizer)[: 4 if arguments.quick else None])
    shape = SHAPES[arguments.shape]
    model = small if shape is None else grown(small, shape)
    field, alone = field_of(model, few), texts if shape is None else texts[:FEW_TEXTS]
    speed, batch = speeds(model, field, alone, rounds), batch_speeds(model, field, texts, rounds)
    publish(
        Result(
            name=f"depth_{arguments.shape}",
            title=f"Early exits and skipped blocks: {TITLES[arguments.shape]}",
            method=METHOD.format(
                count=len(alone),
                told=len(told),
                new=new,
                prompt=PROMPT,
                rounds=rounds,
                piece=PIECE,
                every=EVERY,
            ),
            values={"speed": speed, "batch_speed": batch, "predictions": kept, "whole_files": whole},
            tables=tables(field, kept, speed, batch, whole),
            targets=targets(field, kept, speed, batch, whole, model.decoder),
        ),
        arguments,
    )


if __name__ == "__main__":
    main()
