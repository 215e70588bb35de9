"""Training of the classifiers by which tokens leave a frozen model."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

import jaxmodels.io
from jaxmodels.checks import number, whole
from jaxmodels.decoding.depth.calibration import Readings, confidence_at, read_in_full
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
# Windows that are read in one batch.
_AT_ONCE = 32
# No token leaves in training: what an exit alone would look up is not.
NEVER = 2.0


class Classifier(Protocol):
    """One kind of learned confidence. Implementations are frozen dataclasses."""

    def spec(self, model: Decoder, asked: tuple[int, ...]) -> ParamTree:
        """The parameters, of classifiers behind these blocks."""

    def confidence(self, params: Params) -> Any:
        """A `Confidence` with these parameters."""


@runtime_checkable
class Drafted(Protocol):
    """A classifier whose confidence goes by tokens that a draft names."""

    def drafted(self, tokens: Int[Array, "B S"]) -> Int[Array, "B S K"]:
        """They, behind each token of a text."""

    def told(self, confidence: Any, drafted: Int[Array, "B S K"]) -> Any:
        """The confidence that goes by them."""


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

    def drafted(self, tokens: Int[Array, "B S"]) -> Int[Array, "B S K"]:
        draft: Any = _loaded_draft(self.draft)
        return lax.top_k(draft.config.forward(draft.params, tokens), self.count)[1]

    def told(self, confidence: CandidateConfidence, drafted: Int[Array, "B S K"]) -> CandidateConfidence:
        return replace(confidence, candidates=drafted)


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

    The text is read in full, once, and each exit's classifier learns from binary cross-entropy whether the
    best next token there is the model's own. What the exits are shown is kept in memory: two streams for each
    token and exit, 1.5 KiB at a width of 192. Source: CALM's consistency objective
    (https://arxiv.org/abs/2207.07061), which trains classifiers beside a finished model.

    Attributes:
        classifier: in recipes it carries a `kind`, one of `CLASSIFIERS`.
        asked: the blocks behind which there is one.
        threshold: of the policy that is shipped; see `threshold_for_agreement` for one that keeps a promise.
        windows: of text that are read, drawn at random; all where there are fewer.

    Raises:
        ValueError: a field is out of range; when run, a block that the model does not have.
    """

    classifier: Classifier
    asked: tuple[int, ...]
    threshold: float = 0.95
    windows: int = 1024

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", check_asked(self.asked, 1))
        number("ExitTraining: threshold", self.threshold, low=0.0)
        whole("ExitTraining: windows", self.windows, low=1)

    def spec(self, model: Decoder) -> ParamTree:
        blocks = len(model.blocks)
        if self.asked[-1] + 1 >= blocks:
            raise ValueError(
                f"asked: there is no exit behind block {self.asked[-1]} of a model of {blocks} blocks; the "
                f"last is behind block {blocks - 2}"
            )
        return self.classifier.spec(model, self.asked)

    def examples(self, frozen: Frozen, windows: Int[np.ndarray, "N S"], seed: int) -> "_Examples":
        chosen = np.random.default_rng(seed).permutation(len(windows))[: self.windows]
        batches = np.array_split(windows[chosen], -(-len(chosen) // _AT_ONCE))
        parts = [jax.device_get(_read(self, frozen, jnp.asarray(batch))) for batch in batches]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def loss(
        self, frozen: Frozen, params: Params, batch: "_Examples", key: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The mean cross-entropy, in nats per token and exit; twice."""
        policy, said = replace(self.policy(frozen.model, params), threshold=NEVER), batch.readings.said
        if isinstance(self.classifier, Drafted):
            policy = replace(policy, confidence=self.classifier.told(policy.confidence, batch.drafted))
        sure = confidence_at(frozen.model, policy, frozen.params, batch.readings)
        agrees = (said[..., :-1] == said[..., -1:]).astype(jnp.float32)
        sure = jnp.clip(sure, _CLOSEST, 1 - _CLOSEST)
        nats = -(agrees * jnp.log(sure) + (1 - agrees) * jnp.log(1 - sure)).mean()
        return nats, nats

    def policy(self, model: Decoder, params: Params) -> UntilConfident:
        return UntilConfident(
            confidence=self.classifier.confidence(params), threshold=self.threshold, asked=self.asked
        )


@struct.dataclass
class _Examples:
    """Texts as they are at the exits, and what a draft names behind each token; None where none is asked."""

    readings: Readings
    drafted: Any


def _read(training: ExitTraining, frozen: Frozen, tokens: Int[Array, "B S"]) -> _Examples:
    readings = _read_in_full(frozen.model, training.asked, frozen.params, tokens)
    classifier = training.classifier
    return _Examples(
        readings=readings, drafted=classifier.drafted(tokens) if isinstance(classifier, Drafted) else None
    )


_read_in_full = jax.jit(read_in_full, static_argnums=(0, 1))
