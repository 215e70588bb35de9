"""A language model in the role of an encoder of texts: its hidden states, and no head."""

from dataclasses import dataclass

from jaxtyping import Array, Bool, Int

from jaxmodels.layers.masks import as_mask
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.models.block import DecoderBlock
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.scored import NOWHERE
from jaxmodels.models.text_encoders.encoded import Encoded, restricted


@dataclass(frozen=True, kw_only=True)
class DecoderEncoder:
    """An `EncodesText` whose states are those of a `Decoder`: Gemma's for Sana, Llama's for HiDream.

    Attributes:
        decoder: the language model.
        architecture: the class of transformers that its files are of, "Gemma2Model" for instance.
    """

    decoder: Decoder
    architecture: str

    @property
    def blocks(self) -> tuple[DecoderBlock, ...]:
        return self.decoder.blocks

    @property
    def vocab_size(self) -> int:
        return self.decoder.vocab_size

    @property
    def d_model(self) -> int:
        return self.decoder.d_model

    def spec(self) -> ParamTree:
        """The decoder's, its head included."""
        return self.decoder.spec()

    def encode(
        self, params: Params, tokens: Int[Array, "B S"], seen: Bool[Array, "B S"] | None = None
    ) -> Encoded:
        """See `EncodesText`; there is no pooled vector."""
        names = self.decoder.stream_names
        scored = self.decoder.forward_scored(
            params,
            tokens,
            mask=restricted(as_mask(self.decoder.mask), seen),
            taps=names,
            logits_at=NOWHERE,
        )
        return Encoded(states=tuple(scored.taps[name] for name in names), last=scored.hidden)
