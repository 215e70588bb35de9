"""An answer written anew in one pass after its prompt has changed, without writing it token by token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced, shown
from jaxmodels.decoding.buckets import bucket
from jaxmodels.decoding.processors.chain import Processor, check_positional, process_places
from jaxmodels.decoding.processors.token_ids import checked_ids
from jaxmodels.decoding.samplers import Greedy, Sampler, check_number
from jaxmodels.decoding.strategy import (
    Output,
    Request,
    check_options,
    emit,
    has_choice,
    record_also,
    row_keys,
    tally,
)
from jaxmodels.layers.spec import Params
from jaxmodels.models.denoising import reads_canvases
from jaxmodels.models.filling import filling_of
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.pytrees import register_dataclass

COUNTERS = ("calls", "kept", "changed")


@struct.dataclass
class RetranslationCarry:
    """What is left of the one pass: the cache as it was given, and the output."""

    cache: Cache
    output: Output


@dataclass(frozen=True, kw_only=True, eq=False)
class Retranslation:
    """The whole answer in one pass, for sources that grow while they are translated.

    Each time the source has grown, the translation so far is laid behind it, unknown tokens behind that, and
    the model is asked once for all places. A token of the translation so far stays where the model still
    gives it a probability of at least `keep`; all other places get the model's proposal. The answer has
    `max_new_tokens` tokens, or ends behind its first stop token.

    From the abstract of FReTNA (faster re-translation by a non-autoregressive model), which has one pass for
    each update of the source. Inferred: that a masked diffusion model is the non-autoregressive one, that it
    is shown the translation so far, and the rule by which its tokens stay; without `previous` the translation
    is made anew. The counters are ``"calls"``, and tokens of `previous` that were ``"kept"`` or
    ``"changed"``.

    Attributes:
        previous: the translation so far of each row, token ids; None for none.
        keep: the least probability with which a token stays: 0 for always, above 1 for never.
        sampler: how a token is proposed.
        processors: see `MaskedDiffusion`.
        top_logprobs, prefill_window: see `Autoregressive`; log-probabilities are those of the pass.

    Raises:
        ValueError: a value outside its range, or a processor that goes by the text; when run, a model that
            was not trained to fill in tokens, or another number of rows than that of `previous`.
    """

    previous: Sequence[Sequence[int]] | Int[Array, "B P"] | None = None
    keep: Float[Array, ""] | float = 0.3
    sampler: Sampler = Greedy()
    processors: tuple[Processor, ...] = ()
    top_logprobs: int | None = None
    prefill_window: int = 2048

    def __post_init__(self) -> None:
        check_options(self, {})
        check_number("keep", self.keep, low=0.0)
        check_positional(self.processors)
        if self.previous is not None and not is_traced(self.previous):
            object.__setattr__(self, "previous", _table(self.previous))

    @property
    def lookahead(self) -> int:
        return 0

    def check_model(self, config: LanguageModel, max_new_tokens: int) -> None:
        """Raises ValueError where the model was not trained to fill in mask tokens."""
        filling = filling_of(config)
        if filling is None or filling.mask_token is None or reads_canvases(config):
            raise ValueError(
                "Retranslation is for models that were trained to fill in mask tokens of a text, which this "
                f"one was not: its filling is {filling}"
            )

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, output: Output
    ) -> RetranslationCarry:
        """The one pass."""
        filling = filling_of(config)
        assert filling is not None and filling.mask_token is not None
        old, is_old = self._translation(request, output)
        places = jnp.arange(output.tokens.shape[1])[None, :]
        behind = request.lengths[:, None] + places
        canvas = jnp.pad(request.tokens, ((0, 0), (0, output.tokens.shape[1])))
        laid = jnp.where(is_old, old, filling.mask_token)
        canvas = canvas.at[jnp.arange(len(canvas))[:, None], behind].set(laid)
        scored, pending = config.peek(
            params,
            canvas,
            cache,
            valid=request.lengths + request.max_new,
            logits_at=jnp.maximum(behind - filling.offset, 0),
        )
        cache = config.commit(pending, jnp.zeros_like(request.lengths))
        output = record_also(output, COUNTERS, self.top_logprobs)
        everywhere = jnp.broadcast_to(places, old.shape)
        scores = process_places(self.processors, scored.logits, request, output, everywhere)
        scores = scores.at[:, :, filling.mask_token].set(-jnp.inf)
        tokens = self._proposed(scores, request, output)
        probability = jnp.take_along_axis(jax.nn.softmax(scores), old[:, :, None], axis=2)[:, :, 0]
        stays = is_old & (probability >= self.keep)
        tokens = jnp.where(stays, old, tokens)
        output = tally(output, calls=1, kept=stays.sum(1), changed=(is_old & ~stays).sum(1))
        output = emit(output, request, tokens, request.max_new, scored.logits, chosen=has_choice(scores))
        return RetranslationCarry(cache=cache, output=output)

    def step(
        self, config: LanguageModel, params: Params, request: Request, carry: RetranslationCarry
    ) -> RetranslationCarry:
        """Nothing is left to do."""
        return carry

    def _translation(self, request: Request, output: Output) -> tuple[Int[Array, "B N"], Bool[Array, "B N"]]:
        """The translation so far in the answer's places, and which of them have a token of it."""
        shape = output.tokens.shape
        if self.previous is None:
            return jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool)
        given: Any = jnp.asarray(self.previous)
        if given.shape[0] != shape[0]:
            raise ValueError(
                f"previous has {given.shape[0]} rows and the prompts are {shape[0]}; give one for each"
            )
        given = jnp.pad(given, ((0, 0), (0, max(shape[1] - given.shape[1], 0))), constant_values=-1)
        given = given[:, : shape[1]]
        return jnp.maximum(given, 0), (given >= 0) & (jnp.arange(shape[1]) < request.max_new)

    def _proposed(self, scores: Float[Array, "B N V"], request: Request, output: Output) -> Int[Array, "B N"]:
        """A token for each place by itself."""
        keys = row_keys(request, output.lengths)

        def of_place(place: Array, logits: Float[Array, "B V"]) -> Int[Array, "B"]:
            return self.sampler(logits, jax.vmap(lambda key: jax.random.fold_in(key, place))(keys))

        return jax.vmap(of_place, in_axes=(0, 1), out_axes=1)(jnp.arange(scores.shape[1]), scores)


def _table(rows: Any) -> Int[np.ndarray, "B P"]:
    """Token ids by row, -1 behind each row's end."""
    if isinstance(rows, str | bytes) or not isinstance(rows, Sequence | np.ndarray | jax.Array):
        raise ValueError(f"previous must be token ids, a sequence for each row, got {shown(rows)}")
    checked = [checked_ids(f"previous[{i}]", row) if len(row) else () for i, row in enumerate(rows)]
    table = np.full((len(checked), bucket(max(map(len, checked), default=1))), -1, np.int32)
    for line, row in zip(table, checked, strict=True):
        line[: len(row)] = row
    return table


register_dataclass(
    Retranslation, ["previous", "keep", "sampler", "processors"], ["top_logprobs", "prefill_window"]
)
