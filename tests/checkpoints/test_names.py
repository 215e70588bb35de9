"""Names as transformers and others write them: each finds its row of the family's table."""

import dataclasses

import numpy as np
import pytest

import jaxmodels as jm
from jaxmodels.checkpoints.files import read_json_object
from jaxmodels.checkpoints.names import HEADS, base_prefix, find_names
from jaxmodels.checkpoints.placement import TensorView, place
from jaxmodels.checkpoints.safetensors_io import open_tensors
from jaxmodels.models.families import FAMILIES

FRONTS = ("", "language_model.", "base_model.model.", "model.language_model.", "transformer.", "backbone.")


def config_and_tensors(directory):
    values = read_json_object(directory / "config.json")
    return jm.config_from_hf(values), values, open_tensors(directory)


def under(tensors, rename):
    """The tensors as if they were stored under other names."""
    return TensorView(tensors=tensors, names={rename(name): name for name in tensors.infos})


def assert_same(placed, expected):
    assert placed.config == expected.config
    assert placed.tensors.infos.keys() == expected.tensors.infos.keys()
    for name in expected.tensors.infos:
        np.testing.assert_array_equal(placed.tensors.read(name), expected.tensors.read(name))


def assert_same_names(placed, expected):
    """Of one file: an info says under which name its tensor is stored."""
    assert placed.config == expected.config
    assert placed.tensors.infos == expected.tensors.infos


def test_any_prefix_is_found(reference):
    """Every tensor behind a further prefix; and the head in its place with another one before all others."""
    config, values, tensors = config_and_tensors(reference.directory)
    expected, base = place(config, tensors, values), base_prefix(FAMILIES[config.family])
    for front in FRONTS:
        assert_same_names(place(config, under(tensors, lambda name: front + name), values), expected)  # noqa: B023
        for instead in (front, front + "model."):
            renamed = under(
                tensors,
                lambda name: instead + name.removeprefix(base) if name.startswith(base) else name,  # noqa: B023
            )
            assert_same_names(place(config, renamed, values), expected)
    assert_same(place(config, renamed, values), expected)


def test_the_base_model_of_transformers(native_reference, tmp_path):
    """`XModel.save_pretrained`: names without prefix, and no head."""
    reference, whole = native_reference, native_reference.model
    base = whole.model if whole.base_model is whole else whole.base_model  # Llama 4 misnames its own
    base.save_pretrained(tmp_path)
    config, values, tensors = config_and_tensors(tmp_path)
    whole = config_and_tensors(reference.directory)
    expected = place(whole[0], whole[2], whole[1])
    if config.tie_embeddings:
        assert_same(place(config, tensors, values), expected)
        return
    head = FAMILIES[config.family].head_name
    with pytest.raises(jm.CheckpointError, match=rf"no tensor '{head}': this is a base model"):
        jm.load(tmp_path)


def test_one_of_a_tied_pair_is_enough_and_equal_ones_are_one(reference):
    config, values, tensors = config_and_tensors(reference.directory)
    family, config = FAMILIES[config.family], dataclasses.replace(config, tie_embeddings=True)
    names = {name: name for name in tensors.infos if name != family.head_name}
    expected = place(config, TensorView(tensors=tensors, names=dict(names)), values)
    embedding = names.pop(family.embedding_name)
    for head in {family.head_name, *HEADS}:
        only_head = TensorView(tensors=tensors, names={**names, head: embedding})
        assert_same_names(place(config, only_head, values), expected)
    both = {**names, embedding: embedding, family.head_name: embedding}
    assert_same_names(place(config, TensorView(tensors=tensors, names=both), values), expected)


@pytest.mark.parametrize(
    ("stored", "layer"),
    [
        ("model.layers.61.self_attn.q_a_proj.weight", 61),
        ("model.layers.7.eh_proj.weight", 7),
        ("model.embed_tokens.weight", None),
        ("mtp.layers.0.mlp.down_proj.weight", None),
        ("vision_tower.layers.3.self_attn.q_proj.weight", None),
    ],
)
def test_the_layer_of_a_tensor(stored, layer):
    table = [row.theirs.replace("{i}", "0") for row in FAMILIES["llama"].weights]
    assert find_names(FAMILIES["llama"], [*table, stored]).layer(stored) == layer


def test_a_name_that_is_given_twice_is_an_error(build_reference, tmp_path):
    from configurations.dense import LLAMA

    config, values, tensors = config_and_tensors(build_reference(LLAMA[0]).directory)
    twice = TensorView(
        tensors=tensors,
        names={**{name: name for name in tensors.infos}, "model.lm_head.weight": "lm_head.weight"},
    )
    with pytest.raises(jm.CheckpointError, match=r"are both 'lm_head\.weight' of a llama model"):
        place(config, twice, values)
