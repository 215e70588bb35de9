"""The weight table on its own: parts of one tensor, and tensors that one parameter stacks."""

import dataclasses

import numpy as np
import pytest
from model_helpers import D_MODEL, VOCAB, attention, decoder, delta

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.gated_delta_mixer import GatedDeltaMixer
from jaxmodels.layers.spec import walk
from jaxmodels.models.family import Family, Weight, for_mixer
from jaxmodels.models.readers.dense import WEIGHTS

CONFIG = decoder(attention())
FUSED = "layers.{i}.qkv"


def family(*rows):
    replaced = {row.ours for row in rows}
    table = (*(row for row in WEIGHTS if row.ours not in replaced), *rows)
    return Family(
        model_type="toy",
        summary="",
        read_config=lambda values: CONFIG,
        write_config=lambda config: {},
        weights=table,
    )


def leaves(config=CONFIG):
    rng = np.random.default_rng(0)
    return {path: rng.standard_normal(param.shape) for path, param in walk(config.spec())}


def qkv(along, axes):
    names = {"q": "n h", "k": "k h", "v": "k h"}
    return [
        Weight(f"blocks/{{i}}/mixer/w_{name}", FUSED, axes.format(heads=heads), along)
        for name, heads in names.items()
    ]


@pytest.mark.parametrize(
    ("along", "axes"), [(0, "({heads}) d -> {heads} d"), (1, "d ({heads}) -> {heads} d")]
)
def test_rows_of_one_tensor_are_joined_in_the_tables_order(along, axes):
    ours = leaves()
    tensors = family(*qkv(along, axes)).tensors(CONFIG)
    fused = tensors["layers.0.qkv"]
    heads = 4 + 2 + 2
    assert fused.shape == ((heads * 6, D_MODEL) if along == 0 else (D_MODEL, heads * 6))
    flat = [ours[f"blocks/0/mixer/w_{name}"].reshape(-1, D_MODEL) for name in "qkv"]
    expected = np.concatenate(flat)
    np.testing.assert_array_equal(fused.export(ours), expected if along == 0 else expected.T)
    for part, name in zip(fused.parts, "qkv", strict=True):
        back = part.row.load(part.cut(fused.export(ours)), part.shape)
        np.testing.assert_array_equal(back, ours[f"blocks/0/mixer/w_{name}"])


def test_parts_can_follow_one_another_head_by_head():
    config = decoder(attention(num_kv_heads=4))
    axes = "(n h) d -> n h d"
    rows = [Weight(f"blocks/{{i}}/mixer/w_{name}", FUSED, axes, per="n") for name in "qkv"]
    ours = leaves(config)
    fused = family(*rows).tensors(config)["layers.0.qkv"]
    assert fused.shape == (3 * 4 * 6, D_MODEL)
    by_head = np.concatenate([ours[f"blocks/0/mixer/w_{name}"] for name in "qkv"], axis=1)
    np.testing.assert_array_equal(fused.export(ours), by_head.reshape(-1, D_MODEL))
    for part, name in zip(fused.parts, "qkv", strict=True):
        back = part.row.load(part.cut(fused.export(ours)), part.shape)
        np.testing.assert_array_equal(back, ours[f"blocks/0/mixer/w_{name}"])


def test_a_parameter_stacks_the_tensors_of_its_experts():
    """Any parameter's leading axis may be the stack: the embedding's rows serve as experts here."""
    ours = leaves()
    tensors = family(Weight("embed/weight", "expert.{e}.weight", "(h k) -> (k h)")).tensors
    with pytest.raises(ValueError):  # the pattern must name each of our axes by itself
        tensors(CONFIG)
    tensors = family(Weight("embed/weight", "expert.{e}.weight")).tensors(CONFIG)
    assert {f"expert.{e}.weight" for e in range(VOCAB)} <= set(tensors)
    np.testing.assert_array_equal(tensors["expert.3.weight"].export(ours), ours["embed/weight"][3])
    (part,) = tensors["expert.3.weight"].parts
    assert (part.expert, part.shape) == (3, (D_MODEL,))


def test_experts_can_be_parts_of_fused_tensors():
    """Gate and up of each expert in one tensor, as some checkpoints have them."""
    rows = (
        Weight("embed/weight", "expert.{e}.both"),
        Weight("head/weight", "expert.{e}.both"),
    )
    ours = leaves()
    tensors = family(*rows).tensors(CONFIG)
    assert tensors["expert.5.both"].shape == (2 * D_MODEL,)
    expected = np.concatenate([ours["embed/weight"][5], ours["head/weight"][5]])
    np.testing.assert_array_equal(tensors["expert.5.both"].export(ours), expected)
    untied = [part.start for part in tensors["expert.5.both"].parts]
    assert untied == [0, D_MODEL]


def test_rows_can_be_for_one_kind_of_layer():
    config = decoder(delta(), attention())
    names = [path for path, _ in walk(config.spec()) if path.startswith("blocks/0/mixer/")]
    rows = [Weight(path.replace("/0/", "/{i}/"), path.replace("0", "{i}")) for path in names]
    of_attention = [row for row in WEIGHTS if "/mixer/" in row.ours]
    others = [row for row in WEIGHTS if "/mixer/" not in row.ours]
    table = (*others, *for_mixer(GatedDeltaMixer, *rows), *for_mixer(Attention, *of_attention))
    tensors = dataclasses.replace(family(), weights=table).tensors(config)
    assert tensors["blocks/0/mixer/w_q"].shape == (2, 5, D_MODEL)
    assert tensors["model.layers.1.self_attn.q_proj.weight"].shape == (24, D_MODEL)
    assert not any(name.startswith("blocks/1/mixer/w_") for name in tensors)


def test_names_can_have_several_forms():
    renamed = ((r"\.old_(\w+)\.", r".\1."), (r"^wrapper\.", ""))
    named = dataclasses.replace(family(), renamed=renamed)
    assert named.name_in_table("wrapper.model.old_norm.weight") == "model.norm.weight"
    assert named.name_in_table("model.norm.weight") == "model.norm.weight"


def test_a_missing_row_is_named():
    lacking = dataclasses.replace(family(), weights=WEIGHTS[1:])
    with pytest.raises(KeyError, match=r"family 'toy' has no weight row for parameter 'embed/weight'"):
        lacking.tensors(CONFIG)
