"""Ways to decode take turns at the same prompts: blocks read, speed, and what is kept of the predictions."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxmodels.decoding.adaptive_depth import AdaptiveDepth
from jaxmodels.decoding.depth import MaxProbability, UntilConfident, trace_exits
from jaxmodels.decoding.parallel_filling import ParallelFilling
from jaxmodels.decoding_bench.measure import Exam, answered, in_turns
from jaxmodels.depth_bench.contestants import PLAIN, Contestant
from jaxmodels.model import Model
from jaxmodels.models.depth import ALL_LAYERS
from jaxmodels.training.depth.evaluate import Comparison, compare


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one way to decode made of the exam.

    What is said of predictions is found with the text given, token by token behind the prompt, so that one
    token that differs does not change those behind it. Of ways that are no policies of depth it is None, but
    for the blocks and the agreement of `ParallelFilling`, which follow from how sure its exit is.

    Attributes:
        kind, value: of the contestant.
        same_text: share of the tokens of the answers that are those of decoding with all blocks.
        tokens_per_second: of all answers, at batch 1.
        speed: how many times as fast as decoding with all blocks.
        blocks: read per token of the model's own greedy answers.
        agreement: share of the next tokens behind those that are the model's.
        held_out_blocks, held_out_agreement: the same on texts that the model has not seen.
        accuracy_lost: share of the texts' tokens that all blocks predict, less that which the policy does.
        bits_per_byte: of the texts behind the prompts.
    """

    kind: str
    value: float | None
    same_text: float
    tokens_per_second: float
    speed: float
    blocks: float | None = None
    agreement: float | None = None
    held_out_blocks: float | None = None
    held_out_agreement: float | None = None
    accuracy_lost: float | None = None
    bits_per_byte: float | None = None


def sit(
    model: Model, contestants: Sequence[Contestant], texts: np.ndarray, *, prompt: int, rounds: int = 3
) -> Iterator[Trial]:
    """The trials of all contestants; the first must decode with all blocks.

    Args:
        texts: i32[N, S] of a model with a tokenizer. The first `prompt` tokens of each are continued, for as
            many tokens as follow them.
        rounds: turns of each contestant, of which the median time counts.

    Raises:
        ValueError: the first contestant is not `PLAIN`, or nothing follows the prompts.
    """
    if not contestants or contestants[0].kind != PLAIN:
        raise ValueError(f"the first contestant must be {PLAIN!r}, which the others are compared with")
    if not 1 <= prompt <= texts.shape[1] - 2:
        raise ValueError(f"prompt must lie from 1 to {texts.shape[1] - 2} for these texts, got {prompt}")
    exam = Exam(prompts=texts[:, :prompt], new=texts.shape[1] - prompt, rounds=rounds)
    strategies = {one.name: one.strategy for one in contestants}
    answers = {  # compiles
        name: np.concatenate([one.tokens for one in answered(model, strategy, exam)])
        for name, strategy in strategies.items()
    }
    medians = {name: statistics.median(runs) for name, runs in in_turns(model, strategies, exam).items()}
    own = np.concatenate([exam.prompts, answers[PLAIN]], axis=1).astype(np.int32)
    for one in contestants:
        yield Trial(
            kind=one.kind,
            value=one.value,
            same_text=float((answers[one.name] == answers[PLAIN]).mean()),
            tokens_per_second=answers[one.name].size / medians[one.name],
            speed=medians[PLAIN] / medians[one.name],
            **predictions(model, one, own, texts, prompt),
        )


def predictions(
    model: Model, one: Contestant, own: np.ndarray, texts: np.ndarray, prompt: int
) -> dict[str, float]:
    """The fields of `Trial` that are found with the text given: the model's own answers, prompts included,
    and others, i32[N, S] each."""
    if isinstance(one.strategy, ParallelFilling):
        blocks, agreement = _at_exit(model, one.strategy, own, prompt)
        held_out_blocks, held_out_agreement = _at_exit(model, one.strategy, texts, prompt)
        return {
            "blocks": blocks,
            "agreement": agreement,
            "held_out_blocks": held_out_blocks,
            "held_out_agreement": held_out_agreement,
        }
    if one.kind != PLAIN and not isinstance(one.strategy, AdaptiveDepth):
        return {}
    greedy, held_out = (_compared(model, one, some, prompt) for some in (own, texts))
    scored = texts[:, prompt + 1 :]  # the first token behind the prompt is the prompt's to predict
    return {
        "blocks": greedy.layers,
        "agreement": greedy.agreement,
        "held_out_blocks": held_out.layers,
        "held_out_agreement": held_out.agreement,
        "accuracy_lost": held_out.accuracy - held_out.policy_accuracy,
        "bits_per_byte": held_out.policy_nats * scored.size / math.log(2) / _bytes(model, scored),
    }


def _compared(model: Model, one: Contestant, texts: np.ndarray, prompt: int) -> Comparison:
    strategy = one.strategy if isinstance(one.strategy, AdaptiveDepth) else AdaptiveDepth(depth=ALL_LAYERS)
    return compare(
        model.decoder, model.params, strategy.policy, texts, prompt=prompt,
        prompt_depth=strategy.prompt_policy, batch_size=len(texts),
    )  # fmt: skip


def _at_exit(model: Model, strategy: ParallelFilling, texts: np.ndarray, prompt: int) -> tuple[float, float]:
    """Blocks that were read when the next token was said, and how often it is the model's. Histories are the
    model's own, so that one reading of the texts tells."""
    policy = UntilConfident(
        confidence=MaxProbability(), threshold=strategy.threshold, min_layers=strategy.layers,
        asked=(strategy.layers - 1,),
    )  # fmt: skip
    trace = trace_exits(model.decoder, model.params, [texts], policy)
    behind = np.tile((np.arange(texts.shape[1]) >= prompt) & (np.arange(texts.shape[1]) < texts.shape[1] - 1),
                     len(texts))  # fmt: skip
    trace = replace(trace, confidence=trace.confidence[behind], agrees=trace.agrees[behind])
    thresholds = np.asarray([strategy.threshold])
    return float(trace.depths(thresholds).mean()), trace.agreement(thresholds)


def _bytes(model: Model, tokens: np.ndarray) -> int:
    if model.tokenizer is None:
        raise ValueError("the model has no tokenizer, without which its tokens have no bytes")
    return sum(len(model.tokenizer.decode(row.tolist()).encode()) for row in tokens)
