"""Jacobi decoding: the model's own earlier verdict on a window is the draft for the next one."""

from dataclasses import dataclass

from jaxmodels.decoding.drafters.last_verdict import LastVerdict
from jaxmodels.decoding.processors.chain import Processor
from jaxmodels.decoding.samplers import Greedy, Sampler
from jaxmodels.decoding.speculative import Speculative, SpeculativeCarry
from jaxmodels.decoding.strategy import Output, Request, check_options
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class Jacobi:
    """Decoding as a fixed point, `window` tokens at a time.

    Every step scores the newest token and ``window - 1`` draft tokens at once. Those that equal the model's
    most probable token are right, because all before them are; they and the first correction are emitted. The
    rest of the verdict, moved to the front and filled up with its last token, is the next draft. The output
    is that of greedy `Autoregressive` with the same processors, token for token. Each step emits at least one
    token per row. It is `Speculative` with `LastVerdict` as the draft. Source: Santilli et al. 2023.

    With a sampler that draws, a draft token x is accepted with its probability p(x), and the first that is
    not is replaced by a draw from p without x: what is emitted follows p exactly.

    Attributes:
        window: tokens that are scored at once, the newest included.
        sampler, processors, top_logprobs, prefill_window: see `Autoregressive`.

    Raises:
        ValueError: a value outside its range.
    """

    window: int = 8
    sampler: Sampler = Greedy()
    processors: tuple[Processor, ...] = ()
    top_logprobs: int | None = None
    prefill_window: int = 2048

    def __post_init__(self) -> None:
        check_options(self, {"window": 2})  # the newest token and a draft token

    @property
    def _speculative(self) -> Speculative:
        return Speculative(
            draft=LastVerdict(size=self.window - 1),
            sampler=self.sampler,
            processors=self.processors,
            top_logprobs=self.top_logprobs,
            prefill_window=self.prefill_window,
        )

    @property
    def lookahead(self) -> int:
        return self._speculative.lookahead

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, output: Output
    ) -> SpeculativeCarry:
        return self._speculative.prefill(config, params, request, cache, output)

    def step(
        self, config: LanguageModel, params: Params, request: Request, carry: SpeculativeCarry
    ) -> SpeculativeCarry:
        return self._speculative.step(config, params, request, carry)


register_dataclass(Jacobi, ["sampler", "processors"], ["window", "top_logprobs", "prefill_window"])
