"""Blocks of vision transformers, as the image models of masked tokens have them."""

from jaxmodels.layers.mlp import MLP
from jaxmodels.layers.norm import LayerNorm
from jaxmodels.models.block import Block
from jaxmodels.models.denoisers.parts import plain_attention
from jaxmodels.models.hf_config import ConfigReader

# Of norms; and how much wider a feed-forward is inside.
EPS, FACTOR = 1e-6, 4


def vit_blocks(
    reader: ConfigReader, width: int, heads: tuple[str, int], depth: tuple[str, int]
) -> tuple[Block, ...]:
    """Equal blocks of one width; `heads` and `depth` are the keys of their numbers, with defaults."""
    count = reader.positive_or(*heads)
    reader.check_divides(heads[0], count, "its width", width)
    norm = LayerNorm(dim=width, eps=EPS)
    block = Block(
        mixer_norm=norm,
        mixer=plain_attention(count, width // count),
        ffn_norm=norm,
        ffn=MLP(d_model=width, d_ff=FACTOR * width, activation="gelu"),
    )
    return (block,) * reader.positive_or(*depth)
