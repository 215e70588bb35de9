"""A block between whose mixer and feed-forward the stream attends to a text."""

from dataclasses import dataclass

from jaxtyping import Array, Bool, Float

from jaxmodels.layers.condition import BLOCK_PARTS, Modulation, modulate
from jaxmodels.layers.cross_attention import CrossAttention
from jaxmodels.layers.mlp import FeedForward
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.window import SequenceMixer, Window
from jaxmodels.models.block import Stream, layer_specs
from jaxmodels.models.modules import COMPUTE, Modules


@dataclass(frozen=True, kw_only=True)
class CrossBlock:
    """An `AdaptiveBlock` with ``x + cross(x, context)``, neither normalised nor gated, before its
    feed-forward (PixArt, https://arxiv.org/abs/2310.00426). It has no history, and its feed-forward is given
    the canvas as an image, whose places may see their neighbours there.

    Raises:
        ValueError: `modulation` makes other parts than `BLOCK_PARTS`.
    """

    mixer_norm: Norm
    mixer: SequenceMixer
    cross: CrossAttention
    ffn_norm: Norm
    ffn: FeedForward
    modulation: Modulation

    def __post_init__(self) -> None:
        if set(self.modulation.parts) != set(BLOCK_PARTS):
            parts = self.modulation.parts
            raise ValueError(f"CrossBlock: modulation must make {BLOCK_PARTS}, got {parts}")

    @property
    def module_names(self) -> tuple[str, ...]:
        """The names of its parts, in the order in which they are computed."""
        return ("mixer", "cross", "ffn")

    @property
    def gives_context(self) -> bool:
        """Whether there is a stream of a text behind it: the text is read only."""
        return False

    def spec(self) -> ParamTree:
        return layer_specs(
            modulation=self.modulation,
            mixer_norm=self.mixer_norm,
            mixer=self.mixer,
            cross=self.cross,
            ffn_norm=self.ffn_norm,
            ffn=self.ffn,
        )

    def flops(self, tokens: int, context: int) -> int:
        """FLOPs for one canvas of `tokens` that sees `context` tokens of a text."""
        own = self.mixer.flops_per_token(tokens) + self.ffn.flops_per_token(tokens)
        return self.modulation.flops() + tokens * own + self.cross.flops(tokens, context)

    def forward(
        self,
        params: Params,
        stream: Stream,
        window: Window,
        grid: tuple[int, int],
        context: Float[Array, "B T C"],
        seen: Bool[Array, "B T"],
        modules: Modules = COMPUTE,
    ) -> Stream:
        """The block over a whole canvas. grid: its rows and columns; context: the text; seen: which of its
        tokens are real; modules: the hook at which the parts are computed."""
        assert stream.condition is not None
        made = self.modulation(params["modulation"], stream.condition)
        normed = self.mixer_norm(params["mixer_norm"], stream.narrow())
        own = modulate(normed, made["mixer_shift"], made["mixer_scale"])
        mixed = modules("mixer", lambda: self.mixer.forward(params["mixer"], own, window))
        stream = stream.add(made["mixer_gate"] * mixed)
        x = stream.narrow()
        found = modules("cross", lambda: self.cross.forward(params["cross"], x, context, window, seen))
        stream = stream.add(found)
        normed = self.ffn_norm(params["ffn_norm"], stream.narrow())
        inside = modulate(normed, made["ffn_shift"], made["ffn_scale"])
        image = inside.reshape(len(inside), *grid, inside.shape[-1])
        fed = modules("ffn", lambda: self.ffn(params["ffn"], image).reshape(inside.shape))
        return stream.add(made["ffn_gate"] * fed)
