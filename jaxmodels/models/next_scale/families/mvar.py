"""M-VAR in the names of its authors' code (https://github.com/OliverRensu/MVAR, class ``MVAR``).

That class takes ``shared_aln`` too, but cannot be run with it: it makes six modulations of a class then, and
its blocks read nine.
"""

from jaxmodels.layers.cache.window_only import WindowOnly
from jaxmodels.layers.condition import ProjectedModulation
from jaxmodels.layers.norm import GatedRMSNorm
from jaxmodels.layers.ssd_mixer import SSDMixer
from jaxmodels.layers.stages import StageAlone
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.next_scale.decoupled_block import DecoupledBlock
from jaxmodels.models.next_scale.families import layout
from jaxmodels.models.next_scale.var import VAR
from jaxmodels.models.readers import hybrid

# In the order in which a block's projection holds them.
PARTS = (
    "mixer_gate", "across_gate", "ffn_gate", "mixer_scale", "across_scale", "ffn_scale", "mixer_shift",
    "across_shift", "ffn_shift",
)  # fmt: skip
# What the class asks of Mamba-2, and what that does where nothing is asked.
EXPANSION, STATE_DIM, CONV_WIDTH, HEAD_DIM = 2, 64, 4, 64


def read_config(reader: ConfigReader) -> VAR:
    reader.expect("shared_aln", False)
    width = layout.read_width(reader)
    norm, sides = layout.read_norm(reader, width), layout.read_sides(reader)
    block = DecoupledBlock(
        mixer_norm=norm,
        mixer=layout.read_attention(reader, width, WindowOnly()),
        across_norm=norm,
        across=_across(reader, width),
        ffn_norm=norm,
        ffn=layout.read_feed_forward(reader, width),
        modulation=ProjectedModulation(d_model=width, d_condition=width, parts=PARTS),
    )
    mask = StageAlone(tuple(side**2 for side in sides))
    return layout.read_model(reader, FAMILY.model_type, block, sides=sides, mask=mask)


def _across(reader: ConfigReader, width: int) -> SSDMixer:
    inner = EXPANSION * width
    if inner % HEAD_DIM:
        raise ConfigError(
            f"{reader.name}: key 'embed_dim' must be a multiple of {HEAD_DIM // EXPANSION}, got {width}: "
            f"Mamba-2 has heads of {HEAD_DIM} in {EXPANSION} * embed_dim channels"
        )
    return SSDMixer(
        d_model=width,
        num_heads=inner // HEAD_DIM,
        head_dim=HEAD_DIM,
        state_dim=STATE_DIM,
        conv_width=CONV_WIDTH,
        norm=GatedRMSNorm(dim=inner),
    )


FAMILY = Family(
    model_type="MVAR",
    summary="M-VAR",
    read_config=read_config,
    write_config=layout.write_config,
    weights=(*layout.WEIGHTS, *hybrid.ssd_weights("blocks/{i}/across", f"{layout.BLOCK}mamba")),
    unused=(*layout.UNUSED, r"blocks\.\d+\.attn\.patch_nums"),
    inert=layout.INERT,
)
