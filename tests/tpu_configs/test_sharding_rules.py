"""Rules as data: what they cut, what they refuse, and how a file gives them."""

import json
from dataclasses import fields

import pytest
from jax.sharding import PartitionSpec

from jaxmodels.layers.spec import LOGICAL_AXES
from jaxmodels.tpu_configs.rules import DEFAULT_RULES, Rules, rules_from_json

SIZES = {"data": 2, "fsdp": 4, "sequence": 1, "expert": 1, "tensor": 8}


def cut(rules, shape, axes):
    return rules.partition("w", shape, axes, SIZES)


def test_there_is_a_rule_for_every_logical_axis():
    assert {field.name for field in fields(Rules)} == set(LOGICAL_AXES)


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((32, 64, 128), ("heads", "head_dim", "embed"), ("tensor", None, "fsdp")),
        ((16, 3), ("batch", None), (("data", "fsdp"), None)),
        ((6, 3), ("batch", None), ("data", None)),  # of six rows each of two groups has three
        ((3, 3), ("batch", None), (None, None)),
        ((4, 64), ("kv_heads", "head_dim"), (None, None)),
        ((1, 64), ("ssm_groups", "ssm_state"), (None, None)),
        ((8, 128, 64), ("experts", "embed", "mlp"), (None, "fsdp", "tensor")),
    ],
)
def test_default_rules(shape, axes, expected):
    assert cut(DEFAULT_RULES, shape, axes) == PartitionSpec(*expected)


def test_a_mesh_axis_cuts_the_first_dimension_that_asks():
    assert cut(Rules(embed="tensor"), (16, 32), ("mlp", "embed")) == PartitionSpec("tensor", None)


def test_a_dimension_that_does_not_divide():
    message = (
        r"mesh: w has 12 'heads', which mesh axis 'tensor' of size 8 does not divide evenly; choose another "
        r"size for the mesh axis, or Rules\(heads=None\)"
    )
    with pytest.raises(ValueError, match=message):
        cut(DEFAULT_RULES, (12, 64), ("heads", "head_dim"))


def test_a_rule_to_no_mesh_axis():
    with pytest.raises(ValueError, match=r"Rules: mlp must be one of the mesh axes data, .* got 'tensr'"):
        Rules(mlp="tensr")
    with pytest.raises(ValueError, match="Rules: batch must be one of"):
        Rules(batch=("data", "data"))


def write(tmp_path, contents):
    file = tmp_path / "rules.json"
    file.write_text(json.dumps(contents))
    return file


def test_rules_of_a_file(tmp_path):
    file = write(tmp_path, {"vocab": None, "batch": ["data", "fsdp"], "slots": "sequence"})
    assert rules_from_json(file) == Rules(vocab=None, batch=("data", "fsdp"), slots="sequence")


@pytest.mark.parametrize(
    ("contents", "told"),
    [
        ({"vocabulary": None}, r"rules.json: 'vocabulary' is no logical axis .*, perhaps 'vocab' is meant"),
        ({"vocab": "model"}, r"rules.json: Rules: vocab must be one of the mesh axes .* got 'model'"),
        ({"vocab": {}}, "rules.json: Rules: vocab must be one of"),
        ({"vocab": [None]}, "rules.json: Rules: vocab must be one of"),
    ],
)
def test_a_file_with_an_unknown_axis(tmp_path, contents, told):
    with pytest.raises(ValueError, match=told):
        rules_from_json(write(tmp_path, contents))
