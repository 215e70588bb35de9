"""`MaskedDiffusion`: the one loop of masked generation, whose rules are policies."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.draft_windows import fold_keys
from jaxmodels.decoding.masked.blocks.fixed import FixedBlocks
from jaxmodels.decoding.masked.caches.kept import CanvasCache, Kept, Noting, Shown, alignment_of
from jaxmodels.decoding.masked.caches.recompute import Recompute
from jaxmodels.decoding.masked.canvas import (
    Canvas,
    block_places,
    in_block,
    look,
    new_canvas,
    next_block,
    open_block,
    put,
)
from jaxmodels.decoding.masked.proposals import propose
from jaxmodels.decoding.masked.recording import in_rows, recorded, room
from jaxmodels.decoding.masked.seen import (
    Blocks,
    Guidance,
    Particular,
    Remask,
    Remembering,
    Seen,
    Stop,
    Unmask,
)
from jaxmodels.decoding.masked.unmask.ranking import best
from jaxmodels.decoding.masked.unmask.threshold import Threshold
from jaxmodels.decoding.processors.chain import Processor, check_positional, process_places
from jaxmodels.decoding.samplers import Greedy, Sampler
from jaxmodels.decoding.strategy import (
    LogProbs,
    Output,
    Request,
    check_options,
    check_policy,
    emit,
    has_choice,
    record_also,
    row_keys,
    tally,
)
from jaxmodels.layers.spec import Params
from jaxmodels.models.denoising import reads_canvases
from jaxmodels.models.filling import MaskFilling, filling_of
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.pytrees import register_dataclass

# Which numbers of a row's keys rules and random canvases draw by; proposals draw by the keys themselves.
RULES, NOISE = 1, 2
# The options whose rules may remember a block's steps, in the order in which they are shown a step's logits.
RULE_NAMES = ("unmask", "remask", "stop")
COUNTERS = ("calls", "unmasked", "edited", "refreshes")


@struct.dataclass
class MaskedDiffusionCarry:
    """What a step hands to the next.

    Attributes:
        canvas: prompts and answers.
        kept: what the cache policy keeps of them.
        memories: of the rules that remember a block's steps, by the name of their option.
        found: the log-probabilities of the block's tokens so far, [B, L]; None unless they are recorded.
        output: the finished blocks.
    """

    canvas: Canvas
    kept: Kept
    memories: dict[str, Any]
    found: LogProbs | None
    output: Output

    @property
    def cache(self) -> Cache:
        """The model's."""
        return self.kept.cache


@dataclass(frozen=True, kw_only=True)
class MaskedDiffusion:
    """Fills the unknown tokens of an answer in, several at a time and in any order, block by block.

    Each step scores the places of a row's block, proposes a token for each, and lets `unmask` choose which of
    the unknown ones are filled in. A finished block is emitted. Rows go through their blocks independently.
    For models with a `filling`. Sources: Nie et al. 2025 (LLaDA); each rule names its own.

    Models that see both ways are shown the whole answer, as unknown tokens, from the start. Of models of
    block diffusion (`BlockCausal`) blocks begin at multiples of their length, so that the first one holds the
    end of the prompt. The counters are ``"calls"``, ``"unmasked"`` and ``"edited"`` tokens, and
    ``"refreshes"``, passes that only brought the cache up to date.

    Attributes:
        blocks: how the answer is cut.
        steps: passes planned per block, which rules that go by a schedule use; None: one for each unknown
            place.
        unmask: which unknown places a step fills in.
        remask: what becomes of places that are known; None: nothing.
        cache: what is kept of the canvas between steps.
        stop: when the rest of a block is filled in at once; None: never.
        sampler: how a token is proposed.
        guidance: how logits are pushed away from those of a canvas that lacks the prompt; None: not at all.
        processors: see `Autoregressive`; only those that go by a token's place, because the text before it is
            not known when it is proposed.
        top_logprobs: see `Autoregressive`; of each token when it was filled in.
        prefill_window: longest window in which prompts are fed, where the cache feeds them apart.

    Raises:
        ValueError: a value outside its range, or a processor that goes by the text; when run, a model that
            was not trained to fill in tokens, or that a policy does not fit.
    """

    blocks: Blocks = FixedBlocks(32)
    steps: int | None = None
    unmask: Unmask = Threshold(0.9)
    remask: Remask | None = None
    cache: CanvasCache = Recompute()
    stop: Stop | None = None
    sampler: Sampler = Greedy()
    guidance: Guidance | None = None
    processors: tuple[Processor, ...] = ()
    top_logprobs: int | None = None
    prefill_window: int = 2048

    def __post_init__(self) -> None:
        check_options(self, {})
        check_policy("blocks", self.blocks, "candidates", "FixedBlocks(32)")
        check_policy("unmask", self.unmask, "__call__", "Threshold(0.9)")
        check_policy("cache", self.cache, "score", "Dual()")
        for name, example in (("remask", "TokenEdits()"), ("stop", "SchED()")):
            if getattr(self, name) is not None:
                check_policy(name, getattr(self, name), "__call__", example)
        if self.guidance is not None:
            check_policy("guidance", self.guidance, "combine", "ClassifierFree(1.0)")
        if self.steps is not None and not is_traced(self.steps):
            whole("steps", self.steps, low=1, high=self.blocks.length)
        check_positional(self.processors)

    @property
    def lookahead(self) -> int:
        return self.blocks.length - 1

    def check_model(self, config: LanguageModel, max_new_tokens: int) -> None:
        """Raises ValueError, with the reason, where the model or the length of the answer does not fit."""
        filling = filling_of(config)
        if filling is None:
            raise ValueError(
                "MaskedDiffusion: the model predicts the next token and was not trained to fill in unknown "
                "ones (it has no mask token); decode it with Autoregressive()"
            )
        if filling.mask_token is not None and filling.mask_token >= config.vocab_size:
            raise ValueError(
                f"mask_token={filling.mask_token} lies outside the vocabulary 0 to {config.vocab_size - 1}"
            )
        if reads_canvases(config) and not isinstance(self.cache, Noting):
            raise ValueError(
                f"cache={self.cache}: the model refines its answer canvas by canvas, each of which is told "
                "of the last guess and is read causally once it is finished; use cache=ReadCausally()"
            )
        self.cache.check(config, self.blocks.length)
        whole_blocks = _multiple(filling, self.blocks.length)
        self.blocks.check(alignment_of(config), -(-max_new_tokens // whole_blocks) * whole_blocks)
        for rule in (self.unmask, self.remask, self.stop):
            if isinstance(rule, Particular):
                rule.check(filling, self.stop)
        if not self.cache.scores_all and not (self.remask is None and self.stop is None):
            raise ValueError(
                f"cache={self.cache} scores some places of a block in each step, and remask and stop judge "
                "all of them; leave those out, or use Dual()"
            )
        if self.guidance is not None and not isinstance(self.cache, Recompute):
            raise ValueError(
                f"guidance={self.guidance} reads a second canvas, of which {self.cache} keeps nothing; use "
                "cache=Recompute()"
            )

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, output: Output
    ) -> MaskedDiffusionCarry:
        filling, length, alignment = _filling(config), self.blocks.length, alignment_of(config)
        batch, prompts = request.tokens.shape
        whole_blocks = _multiple(filling, length)
        slots = prompts + output.tokens.shape[1] + 2 * (alignment - 1) + whole_blocks - 1
        filler = _filler(filling, config, request, (batch, slots))
        canvas = new_canvas(request, slots, alignment, filler, whole_blocks)
        canvas = open_block(canvas, length)
        output = record_also(output, COUNTERS, self.top_logprobs)
        kept = self.cache.begin(self._shown(config, params, canvas), request, cache, self.prefill_window)
        return MaskedDiffusionCarry(
            canvas=canvas,
            kept=kept,
            memories=self._memories(config, batch),
            found=room(output.log_probs, length),
            output=replace(output, counters=output.counters | {"refreshes": kept.refreshes}),
        )

    def step(
        self, config: LanguageModel, params: Params, request: Request, carry: MaskedDiffusionCarry
    ) -> MaskedDiffusionCarry:
        canvas, length = carry.canvas, self.blocks.length
        raw, kept = self._score(config, params, canvas, carry.kept)
        seen, memories = self._look(config, request, carry, raw)
        if isinstance(self.cache, Noting):
            kept = self.cache.note(self._shown(config, params, canvas), kept, seen.logits)
        canvas, seen = self._cut(canvas, seen)
        inside = in_block(canvas, length) & ~carry.output.done[:, None]
        seen = replace(seen, masked=seen.masked & inside, editable=seen.editable & inside)

        stuck = (seen.masked & ~has_choice(seen.logits)).any(1)
        inside = inside & ~stuck[:, None]
        fresh = seen.masked if kept.fresh is None else look(kept.fresh, block_places(canvas, length))
        tokens, unknown, unfinished, memories = self._fill(config, seen, fresh, memories)
        changed = inside & ((tokens != seen.tokens) | (seen.masked & ~unknown))
        places = block_places(canvas, length)
        canvas = replace(
            canvas,
            tokens=put(canvas.tokens, places, tokens, changed),
            unknown=put(canvas.unknown, places, unknown, inside),
            step=canvas.step + 1,
            idle=canvas.idle + ~seen.masked.any(1),
        )
        finished = ~(unknown & inside).any(1) & ~unfinished & ~stuck & ~carry.output.done

        found = recorded(carry.found, tokens, raw, changed)
        output = tally(
            carry.output,
            calls=1,
            unmasked=(changed & seen.masked & ~unknown).sum(1),
            edited=(changed & seen.editable).sum(1),
        )
        output = self._emit(request, canvas, output, found, finished, stuck)
        go_on = finished & ~output.done
        kept = self.cache.advance(self._shown(config, params, canvas), kept, go_on)
        output = replace(output, counters=output.counters | {"refreshes": kept.refreshes})
        return MaskedDiffusionCarry(
            canvas=next_block(canvas, go_on, length),
            kept=kept,
            memories=in_rows(go_on, self._memories(config, go_on.shape[0]), memories),
            found=found,
            output=output,
        )

    def _shown(self, config: LanguageModel, params: Params, canvas: Canvas) -> Shown:
        return Shown(config=config, params=params, canvas=canvas, length=self.blocks.length)

    def _score(
        self, config: LanguageModel, params: Params, canvas: Canvas, kept: Kept
    ) -> tuple[Float[Array, "B L V"], Kept]:
        """The model's logits for the block, behind guidance."""
        logits, kept = self.cache.score(self._shown(config, params, canvas), kept)
        if self.guidance is None:
            return logits, kept
        is_prompt = canvas.places < canvas.prompt[:, None]
        tokens = self.guidance.unconditional(canvas.tokens, is_prompt, _filling(config).mask_token)
        without, kept = self.cache.score(self._shown(config, params, replace(canvas, tokens=tokens)), kept)
        return self.guidance.combine(logits, without), kept

    def _look(
        self, config: LanguageModel, request: Request, carry: MaskedDiffusionCarry, raw: Float[Array, "B L V"]
    ) -> tuple[Seen, dict[str, Any]]:
        """What the rules are shown of the block, all of whose places count as its own; and their memories."""
        canvas, output = carry.canvas, carry.output
        places = block_places(canvas, self.blocks.length)
        inside = in_block(canvas, self.blocks.length)
        masked = look(canvas.unknown, places) & inside
        answer = places - canvas.prompt[:, None]
        logits = process_places(self.processors, raw, request, output, answer)
        mask_token = _filling(config).mask_token
        if mask_token is not None:
            logits = logits.at[:, :, mask_token].set(-jnp.inf)
        keys = row_keys(request, output.counters["calls"])
        planned = canvas.initial if self.steps is None else jnp.broadcast_to(self.steps, canvas.step.shape)
        not_yet: Any = None
        seen = Seen(
            tokens=look(canvas.tokens, places),
            masked=masked,
            editable=inside & ~masked & (answer >= 0),
            positions=places,
            logits=logits,
            proposed=not_yet,
            probability=not_yet,
            distribution=not_yet,
            step=canvas.step,
            steps=planned,
            initial=canvas.initial,
            idle=canvas.idle,
            keys=fold_keys(keys, RULES),
        )
        memories = dict(carry.memories)
        for name in (name for name in RULE_NAMES if name in memories):
            logits, memories[name] = getattr(self, name).fuse(replace(seen, memory=memories[name]))
            seen = replace(seen, logits=logits)
        proposed, probability, distribution = propose(self.sampler, seen.logits, keys)
        seen = replace(seen, proposed=proposed, probability=probability, distribution=distribution)
        return seen, memories

    def _cut(self, canvas: Canvas, seen: Seen) -> tuple[Canvas, Seen]:
        """The canvas whose block ends where `blocks` says in its first step, and how the rules count it."""
        is_first = canvas.step == 0
        size = jnp.where(is_first, jnp.minimum(self.blocks.end(seen), canvas.size), canvas.size)
        canvas = replace(canvas, size=size)
        unknown = (seen.masked & in_block(canvas, self.blocks.length)).sum(1, dtype=jnp.int32)
        canvas = replace(canvas, initial=jnp.where(is_first, unknown, canvas.initial))
        planned = canvas.initial if self.steps is None else seen.steps
        return canvas, replace(seen, initial=canvas.initial, steps=planned)

    def _fill(
        self,
        config: LanguageModel,
        seen: Seen,
        fresh: Bool[Array, "B L"],
        memories: dict[str, Any],
    ) -> tuple[Int[Array, "B L"], Bool[Array, "B L"], Bool[Array, "B"], dict[str, Any]]:
        """The block's tokens behind this step, which of them are unknown, rows that take another step even if
        none is, and what the rules remember. Only unknown places that are `fresh` can be filled in."""
        asked = replace(seen, memory=memories.get("unmask"))
        now = replace(asked, masked=self.blocks.candidates(asked) & fresh, unknown=seen.masked)
        chosen = self.unmask(now) & now.masked
        is_last = seen.step >= jnp.maximum(seen.steps, 1) - 1
        chosen = chosen | (best(now.probability, now.masked) & (is_last & ~chosen.any(1))[:, None])
        tokens = jnp.where(chosen, seen.proposed, seen.tokens)
        seen = replace(seen, filled=chosen)
        unfinished = jnp.zeros(seen.step.shape, bool)
        if self.remask is not None:
            edited = self.remask(replace(seen, memory=memories.get("remask")), tokens)
            tokens, unfinished = edited.tokens, edited.unfinished
            if "remask" in memories and edited.memory is not None:
                memories = {**memories, "remask": edited.memory}
        ends = jnp.zeros(seen.step.shape, bool)
        if self.stop is not None:
            ends = self.stop(replace(seen, memory=memories.get("stop")), tokens)
        mask_token = _filling(config).mask_token
        if mask_token is None:  # no place is known before the last step
            ends = ends | is_last
            unknown = seen.masked
        else:
            unknown = (seen.masked | seen.editable) & (tokens == mask_token)
        likeliest = jnp.argmax(seen.logits, axis=-1).astype(jnp.int32)
        tokens = jnp.where(unknown & ends[:, None], likeliest, tokens)
        return tokens, unknown & ~ends[:, None], unfinished & ~ends, memories

    def _emit(
        self,
        request: Request,
        canvas: Canvas,
        output: Output,
        found: LogProbs | None,
        finished: Bool[Array, "B"],
        stuck: Bool[Array, "B"],
    ) -> Output:
        """The output with the blocks that are finished, without what they hold of the prompt."""
        index = jnp.arange(self.blocks.length, dtype=jnp.int32)
        in_front = jnp.maximum(canvas.prompt - canvas.start, 0)
        tokens = look(canvas.tokens, (canvas.start + in_front)[:, None] + index)
        at = jnp.minimum(in_front[:, None] + index, self.blocks.length - 1)
        found = jax.tree.map(lambda a: jax.vmap(lambda row, i: row[i])(a, at), found)
        count = jnp.where(finished, canvas.size - in_front, 0)
        output = emit(output, request, tokens, count, found=found, chosen=jnp.ones(tokens.shape, bool))
        return replace(output, steps=output.steps + 1, done=output.done | stuck, stuck=output.stuck | stuck)

    def _memories(self, config: LanguageModel, batch: int) -> dict[str, Any]:
        """What the rules remember in front of a block."""
        rules: dict[str, Any] = {name: getattr(self, name) for name in RULE_NAMES}
        return {
            name: rule.begin(batch, self.blocks.length, config.vocab_size)
            for name, rule in rules.items()
            if isinstance(rule, Remembering)
        }


def _filling(config: LanguageModel) -> MaskFilling:
    filling = filling_of(config)
    assert filling is not None  # `check_model` was asked
    return filling


def _multiple(filling: MaskFilling, length: int) -> int:
    """Canvases hold a multiple of so many tokens of an answer, however short it is: whole blocks where random
    tokens stand for unknown ones, as models were trained with."""
    return length if filling.mask_token is None else 1


def _filler(
    filling: MaskFilling, config: LanguageModel, request: Request, shape: tuple[int, int]
) -> Int[Array, "B N"]:
    """What stands in the place of unknown tokens before the first step."""
    if filling.mask_token is not None:
        return jnp.full(shape, filling.mask_token, jnp.int32)
    keys = fold_keys(request.keys, NOISE)
    return jax.vmap(lambda key: jax.random.randint(key, shape[1:], 0, config.vocab_size))(keys)


register_dataclass(
    MaskedDiffusion,
    ["blocks", "steps", "unmask", "remask", "cache", "stop", "sampler", "guidance", "processors"],
    ["top_logprobs", "prefill_window"],
)
