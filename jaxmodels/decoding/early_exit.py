"""Early exit: a token leaves the stack of blocks as soon as a policy is confident in what it would say."""

from dataclasses import dataclass

from jaxtyping import Array

from jaxmodels.decoding.adaptive_depth import AdaptiveDepth
from jaxmodels.decoding.autoregressive import Autoregressive, AutoregressiveCarry
from jaxmodels.decoding.depth.confidence import Confidence, MaxProbability, Recalling
from jaxmodels.decoding.depth.thresholds import Thresholds
from jaxmodels.decoding.depth.until_confident import UntilConfident
from jaxmodels.decoding.strategy import Output, Request, check_options, check_policy
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class EarlyExit:
    """`decode`, with each step's token leaving the blocks where the model is confident.

    Once a row's token leaves, the remaining blocks only fill their history from its stream there. A block
    that no row needs is not read. Prompts are read in full. Log-probabilities are those of the token's own
    depth. The counter ``"layers"`` holds the blocks that were read, per row. Source: Schuster et al. 2022
    (CALM), its state propagation extended from keys and values to recurrent states.

    Attributes:
        threshold: the confidence at which a token leaves, a number or `Thresholds` by block, position or row.
            Above 1 none does, and the output is exactly that of `decode`.
        min_layers: blocks that every token is read in.
        confidence: looks at the streams behind blocks, by default with the head.
        asked: the blocks behind which it looks, see `UntilConfident`; None for all from the last of
            `min_layers` on.
        decode: how the next token is picked.

    Raises:
        ValueError: a value outside its range; when run, more `min_layers` than the model has blocks, or a
            confidence with parameters of another model.
    """

    threshold: Array | float | Thresholds = 0.9
    min_layers: int = 1
    confidence: Confidence | Recalling = MaxProbability()
    asked: tuple[int, ...] | None = None
    decode: Autoregressive = Autoregressive()

    def __post_init__(self) -> None:
        check_options(self, {"min_layers": 1})
        check_policy("decode", self.decode, "advance", "Autoregressive()")
        object.__setattr__(self, "asked", self._depth.asked)

    @property
    def _depth(self) -> UntilConfident:
        return UntilConfident(
            confidence=self.confidence,
            threshold=self.threshold,
            min_layers=self.min_layers,
            asked=self.asked,
        )

    @property
    def _at_depth(self) -> AdaptiveDepth:
        return AdaptiveDepth(depth=self._depth, decode=self.decode)

    @property
    def prefill_window(self) -> int:
        return self.decode.prefill_window

    @property
    def lookahead(self) -> int:
        return 0

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, output: Output
    ) -> AutoregressiveCarry:
        return self._at_depth.prefill(config, params, request, cache, output)

    def step(
        self, config: LanguageModel, params: Params, request: Request, carry: AutoregressiveCarry
    ) -> AutoregressiveCarry:
        return self._at_depth.step(config, params, request, carry)


register_dataclass(EarlyExit, ["threshold", "confidence", "decode"], ["min_layers", "asked"])
