"""Training of the classifiers by which tokens leave a frozen model."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

import jaxmodels.io
from jaxmodels.checks import number, whole
from jaxmodels.decoding.depth.calibration import asked_everywhere
from jaxmodels.decoding.depth.confidence import (
    CandidateConfidence,
    LinearConfidence,
    MLPConfidence,
    RecurrentConfidence,
)
from jaxmodels.decoding.depth.confidence.recurrent import exit_spec
from jaxmodels.decoding.depth.until_confident import UntilConfident, check_asked
from jaxmodels.decoding.drafters.model_drafter import Draft, check_same_vocabulary
from jaxmodels.layers.spec import ZEROS, FanIn, Param, Params, ParamTree
from jaxmodels.models.decoder import Decoder
from jaxmodels.training.depth.objective import Frozen

# Confidences are kept so far from 0 and 1 that their logarithms are finite.
_CLOSEST = 1e-6
# No token leaves in training: what an exit alone would look up is not.
NEVER = 2.0


class Classifier(Protocol):
    """One kind of learned confidence. Implementations are frozen dataclasses."""

    def spec(self, model: Decoder, asked: tuple[int, ...]) -> ParamTree:
        """The parameters, of classifiers behind these blocks."""

    def confidence(self, params: Params) -> Any:
        """A `Confidence` with these parameters."""


@runtime_checkable
class ReadsText(Protocol):
    """A classifier whose confidence must be told something of the text."""

    def in_text(self, confidence: Any, tokens: Int[Array, "B S"]) -> Any:
        """The confidence as it is asked in a text."""


@dataclass(frozen=True)
class Linear:
    """A `LinearConfidence`."""

    def spec(self, model: Decoder, asked: tuple[int, ...]) -> ParamTree:
        blocks = len(model.blocks)
        return {
            "weight": Param((blocks, model.d_model), ("layers", "embed"), ZEROS),
            "bias": Param((blocks,), ("layers",), ZEROS),
        }

    def confidence(self, params: Params) -> LinearConfidence:
        return LinearConfidence(weight=params["weight"], bias=params["bias"])


@dataclass(frozen=True, kw_only=True)
class MLP:
    """An `MLPConfidence`.

    Attributes:
        hidden: features of its hidden layer.

    Raises:
        ValueError: it is below 1.
    """

    hidden: int = 64

    def __post_init__(self) -> None:
        whole("MLP: hidden", self.hidden, low=1)

    def spec(self, model: Decoder, asked: tuple[int, ...]) -> ParamTree:
        blocks, width = len(model.blocks), model.d_model
        return {
            "w_in": Param((blocks, width, self.hidden), ("layers", "embed", None), FanIn(width)),
            "b_in": Param((blocks, self.hidden), ("layers", None), ZEROS),
            "w_out": Param((blocks, self.hidden), ("layers", None), ZEROS),
            "b_out": Param((blocks,), ("layers",), ZEROS),
        }

    def confidence(self, params: Params) -> MLPConfidence:
        return MLPConfidence(
            w_in=params["w_in"], b_in=params["b_in"], w_out=params["w_out"], b_out=params["b_out"]
        )


@dataclass(frozen=True, kw_only=True)
class Recurrent:
    """A `RecurrentConfidence`.

    Attributes:
        width, state_dim: see there.

    Raises:
        ValueError: a size below 1.
    """

    width: int = 32
    state_dim: int = 8

    def __post_init__(self) -> None:
        whole("Recurrent: width", self.width, low=1)
        whole("Recurrent: state_dim", self.state_dim, low=1)

    def spec(self, model: Decoder, asked: tuple[int, ...]) -> ParamTree:
        return {str(exit): exit_spec(model.d_model, self.width, self.state_dim) for exit in asked}

    def confidence(self, params: Params) -> RecurrentConfidence:
        return RecurrentConfidence(params=params, width=self.width, state_dim=self.state_dim)


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """A `CandidateConfidence`, for `SpeculativeExit`.

    Attributes:
        draft: a model directory or bundled name, of the model's vocabulary: what names the candidates.
        count: candidates of each token.
        hidden: features of the predictor's hidden layer.

    Raises:
        ValueError: a size below 1; when run, a draft of another vocabulary.
    """

    draft: str
    count: int = 4
    hidden: int = 64

    def __post_init__(self) -> None:
        whole("Candidates: count", self.count, low=1)
        whole("Candidates: hidden", self.hidden, low=1)

    def spec(self, model: Decoder, asked: tuple[int, ...]) -> ParamTree:
        check_same_vocabulary(_loaded_draft(self.draft), model)
        blocks, shown = len(model.blocks), 3 * self.count
        return {
            "w_in": Param((blocks, shown, self.hidden), ("layers", None, None), FanIn(shown)),
            "b_in": Param((blocks, self.hidden), ("layers", None), ZEROS),
            "w_out": Param((blocks, self.hidden), ("layers", None), ZEROS),
            "b_out": Param((blocks,), ("layers",), ZEROS),
        }

    def confidence(self, params: Params) -> CandidateConfidence:
        return CandidateConfidence(
            w_in=params["w_in"], b_in=params["b_in"], w_out=params["w_out"], b_out=params["b_out"]
        )

    def in_text(self, confidence: CandidateConfidence, tokens: Int[Array, "B S"]) -> CandidateConfidence:
        draft: Any = _loaded_draft(self.draft)
        logits = draft.config.forward(draft.params, tokens)
        return replace(confidence, candidates=lax.top_k(logits, self.count)[1])


@functools.lru_cache(maxsize=2)
def _loaded_draft(name: str) -> Draft:
    model = jaxmodels.io.as_language_model(jaxmodels.io.load(name, "float32"), name)
    return Draft(model.config, model.params)


CLASSIFIERS: Mapping[str, type] = {
    "candidates": Candidates,
    "linear": Linear,
    "mlp": MLP,
    "recurrent": Recurrent,
}


@dataclass(frozen=True, kw_only=True)
class ExitTraining:
    """An `UntilConfident` whose confidence is learned: whether an exit says what the last block would.

    Every token is read in full, and each exit's classifier learns from binary cross-entropy whether the best
    next token there is the model's own. Source: CALM's consistency objective
    (https://arxiv.org/abs/2207.07061), which trains classifiers beside a finished model.

    Attributes:
        classifier: in recipes it carries a `kind`, one of `CLASSIFIERS`.
        asked: the blocks behind which there is one.
        threshold: of the policy that is shipped; see `threshold_for_agreement` for one that keeps a promise.

    Raises:
        ValueError: a field is out of range; when run, a block that the model does not have.
    """

    classifier: Classifier
    asked: tuple[int, ...]
    threshold: float = 0.95

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", check_asked(self.asked, 1))
        number("ExitTraining: threshold", self.threshold, low=0.0)

    def spec(self, model: Decoder) -> ParamTree:
        blocks = len(model.blocks)
        if self.asked[-1] + 1 >= blocks:
            raise ValueError(
                f"asked: there is no exit behind block {self.asked[-1]} of a model of {blocks} blocks; the "
                f"last is behind block {blocks - 2}"
            )
        return self.classifier.spec(model, self.asked)

    def examples(self, frozen: Frozen, windows: Int[np.ndarray, "N S"], seed: int) -> Int[np.ndarray, "N S"]:
        return windows

    def loss(
        self, frozen: Frozen, params: Params, batch: Int[Array, "B S"], key: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The mean cross-entropy, in nats per token and exit; twice."""
        policy = replace(self.policy(frozen.model, params), threshold=NEVER)
        if isinstance(self.classifier, ReadsText):
            policy = replace(policy, confidence=self.classifier.in_text(policy.confidence, batch))
        sure, said = asked_everywhere(frozen.model, policy, frozen.params, batch)
        agrees = (said[..., :-1] == said[..., -1:]).astype(jnp.float32)
        sure = jnp.clip(sure, _CLOSEST, 1 - _CLOSEST)
        nats = -(agrees * jnp.log(sure) + (1 - agrees) * jnp.log(1 - sure)).mean()
        return nats, nats

    def policy(self, model: Decoder, params: Params) -> UntilConfident:
        return UntilConfident(
            confidence=self.classifier.confidence(params), threshold=self.threshold, asked=self.asked
        )
