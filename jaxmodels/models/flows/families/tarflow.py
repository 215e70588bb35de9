"""TarFlow in the names of its authors' code (https://github.com/apple/ml-tarflow, class ``Model``).

The keys are the arguments of that class, with two that it leaves at their defaults (``head_dim``,
``expansion``) and the ``noise_std`` of its training.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import MLP
from jaxmodels.layers.norm import LayerNorm
from jaxmodels.models.block import Block
from jaxmodels.models.denoisers.parts import plain_attention
from jaxmodels.models.denoisers.weight_rows import HEAD_BIAS, HEADS, affine
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.flows.flow_block import FlowBlock
from jaxmodels.models.flows.tarflow import TarFlow
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense
from jaxmodels.models.trunk import Trunk

EPS = 1e-5


def read_config(reader: ConfigReader) -> TarFlow:
    size, patch = reader.positive("img_size"), reader.positive("patch_size")
    reader.check_divides("patch_size", patch, "img_size", size)
    width, head = reader.positive("channels"), reader.positive_or("head_dim", 64)
    reader.check_divides("head_dim", head, "channels", width)
    image = reader.positive_or("in_channels", 3)
    norm = LayerNorm(dim=width, eps=EPS)
    factor = reader.positive_or("expansion", 4)
    block = Block(
        mixer_norm=norm,
        mixer=plain_attention(width // head, head),
        ffn_norm=norm,
        ffn=MLP(d_model=width, d_ff=factor * width, activation="gelu"),
    )
    trunk = Trunk(d_model=width, blocks=(block,) * reader.positive("layers_per_block"))
    classes, scales = reader.take_or("num_classes", int, 0), reader.flag("nvp", True)
    steps = tuple(
        FlowBlock(
            places=(size // patch) ** 2,
            channels=image * patch**2,
            num_classes=classes,
            trunk=trunk,
            is_flipped=i % 2 == 1,
            scales=scales,
        )
        for i in range(reader.positive("num_blocks"))
    )
    return TarFlow(
        image_channels=image,
        size=size,
        patch=patch,
        steps=steps,
        noise_std=reader.take_or("noise_std", float, 0.0),
        family=FAMILY.model_type,
    )


def write_config(config: TarFlow) -> dict[str, Any]:
    step = config.steps[0]
    block = step.trunk.blocks[0]
    assert isinstance(block.mixer, Attention) and isinstance(block.ffn, MLP)
    return {
        "_class_name": FAMILY.model_type,
        "channels": step.trunk.d_model,
        "expansion": block.ffn.d_ff // step.trunk.d_model,
        "head_dim": block.mixer.head_dim,
        "img_size": config.size,
        "in_channels": config.image_channels,
        "layers_per_block": len(step.trunk.blocks),
        "noise_std": config.noise_std,
        "num_blocks": len(config.steps),
        "num_classes": step.num_classes,
        "nvp": step.scales,
        "patch_size": config.patch,
    }


def named_weights(config: TarFlow) -> tuple[Weight, ...]:
    rows = (_step(i, len(step.trunk.blocks)) for i, step in enumerate(config.steps))
    return (*chain(*rows), Weight("prior/variance", "var"))


def _step(number: int, layers: int) -> Iterator[Weight]:
    ours, theirs = f"steps/{number}", f"blocks.{number}."
    yield from affine(f"{ours}/in/{{p}}", f"{theirs}proj_in")
    yield Weight(f"{ours}/positions/weight", f"{theirs}pos_embed")
    yield Weight(f"{ours}/classes/weight", f"{theirs}class_embed", "n 1 d -> n d")
    yield from affine(f"{ours}/out/{{p}}", f"{theirs}proj_out")
    for layer in range(layers):
        block, name = f"{ours}/blocks/{layer}", f"{theirs}attn_blocks.{layer}."
        yield from dense.layer_norm_rows(f"{block}/mixer_norm", f"{name}attention.norm")
        for part in "qkv":
            yield from affine(f"{block}/mixer/{{p}}_{part}", f"{name}attention.qkv", HEADS, HEAD_BIAS)
        yield from affine(f"{block}/mixer/{{p}}_o", f"{name}attention.proj", "d (n h) -> d n h")
        yield from dense.layer_norm_rows(f"{block}/ffn_norm", f"{name}mlp.norm")
        yield from affine(f"{block}/ffn/{{p}}_up", f"{name}mlp.main.0")
        yield from affine(f"{block}/ffn/{{p}}_down", f"{name}mlp.main.2")


FAMILY = Family(
    model_type="TarFlow",
    summary="TarFlow",
    read_config=read_config,
    write_config=write_config,
    weights=(),
    named_weights=named_weights,
    unused=(r"blocks\.\d+\.attn_mask",),
)
