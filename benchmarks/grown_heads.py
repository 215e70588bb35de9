"""Draft heads of a small model that draft for it in a larger shape, see `benchmarks.grown`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from jaxtyping import Array, Float, Int

import jaxmodels as jm
from benchmarks.grown import places
from jaxmodels.decoding import MTP, FeatureDrafter
from jaxmodels.layers.masks import CAUSAL, MaskLike
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.draft_heads.feature_head import FeatureHead, Predicted, Target, check_vocabulary
from jaxmodels.models.draft_heads.history import History
from jaxmodels.models.language_model import LanguageModel
from jaxmodels.models.scored import EVERYWHERE, LogitsAt


@dataclass(frozen=True, kw_only=True)
class OnGrown:
    """A head of a small model on the streams of the grown one: a `FeatureHead`.

    The streams of a grown model begin with those of the small one, behind the blocks that were its own. The
    head reads that part of them, and shares embeddings and output head with the small model.

    Attributes:
        head: the small model's.
        small: the small model.
        blocks: how many the grown model has.
    """

    head: FeatureHead
    small: Decoder
    blocks: int

    @property
    def vocab_size(self) -> int:
        return self.head.vocab_size

    @property
    def taps(self) -> tuple[str, ...]:
        return tuple(map(self._grown, self.head.taps))

    def spec(self) -> ParamTree:
        return {"head": self.head.spec(), "small": self.small.spec()}

    def check_target(self, target: LanguageModel) -> None:
        check_vocabulary("OnGrown", self.small.vocab_size, target)

    def features(self, params: Params, taps: Mapping[str, Float[Array, "B S D"]]) -> Float[Array, "B S F"]:
        own = {name: taps[self._grown(name)][..., : self.small.d_model] for name in self.head.taps}
        return self.head.features(params["head"], own)

    def init_history(self, batch: int, capacity: int) -> History:
        return self.head.init_history(batch, capacity)

    def extend(
        self,
        params: Params,
        target: Target,
        tokens: Int[Array, "B S"],
        features: Float[Array, "B S F"],
        history: History,
        *,
        positions: Int[Array, "B S"] | None = None,
        mask: MaskLike = CAUSAL,
        valid: Int[Array, "B"],
        logits_at: LogitsAt = EVERYWHERE,
    ) -> tuple[Predicted, History]:
        return self.head.extend(
            params["head"],
            Target(self.small, params["small"]),
            tokens,
            features,
            history,
            positions=positions,
            mask=mask,
            valid=valid,
            logits_at=logits_at,
        )

    def _grown(self, name: str) -> str:
        """The grown model's stream that begins with this one of the small model."""
        if not name.startswith("blocks/"):
            return name
        at = places(len(self.small.blocks), self.blocks)
        return f"blocks/{at[int(name.removeprefix('blocks/'))]}"


def head_on_grown(name: str, small: jm.Model, target: jm.Model, size: int) -> FeatureDrafter:
    """The bundled head of this name, of the small model, as a drafter of `size` tokens for the grown one."""
    drafter = jm.load_drafter(name, small, size=size)
    if isinstance(drafter, MTP):
        drafter = drafter.drafter
    head = OnGrown(head=drafter.head, small=small.decoder, blocks=len(target.decoder.blocks))
    return replace(drafter, head=head, params={"head": drafter.params, "small": small.params})
