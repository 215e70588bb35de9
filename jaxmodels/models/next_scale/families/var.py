"""VAR in the names of its authors' code (https://github.com/FoundationVision/VAR, class ``VAR``)."""

from jaxmodels.layers.condition import ProjectedModulation, TableModulation
from jaxmodels.layers.stages import StageCausal
from jaxmodels.models.adaptive_block import AdaptiveBlock
from jaxmodels.models.denoisers import weight_rows
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.next_scale.families import layout
from jaxmodels.models.next_scale.var import VAR

# In the order in which a block's projection holds them.
PARTS = ("mixer_gate", "ffn_gate", "mixer_scale", "ffn_scale", "mixer_shift", "ffn_shift")


def read_config(reader: ConfigReader) -> VAR:
    width, shared = layout.read_width(reader), reader.flag("shared_aln", False)
    norm, sides = layout.read_norm(reader, width), layout.read_sides(reader)
    own = ProjectedModulation(d_model=width, d_condition=width, parts=PARTS)
    table = TableModulation(d_model=width, d_condition=len(PARTS) * width, parts=PARTS)
    block = AdaptiveBlock(
        mixer_norm=norm,
        mixer=layout.read_attention(reader, width),
        ffn_norm=norm,
        ffn=layout.read_feed_forward(reader, width),
        modulation=table if shared else own,
    )
    return layout.read_model(
        reader,
        FAMILY.model_type,
        block,
        sides=sides,
        mask=StageCausal(tuple(side**2 for side in sides)),
        shared_modulation=own if shared else None,
    )


FAMILY = Family(
    model_type="VAR",
    summary="VAR",
    read_config=read_config,
    write_config=layout.write_config,
    weights=(
        *layout.WEIGHTS,
        *weight_rows.modulation("shared_modulation", "shared_ada_lin.1"),
        Weight("blocks/{i}/modulation/table", f"{layout.BLOCK}ada_gss", "1 1 m d -> m d"),
    ),
    unused=layout.UNUSED,
    inert=layout.INERT,
)
