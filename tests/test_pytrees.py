import dataclasses
import re

import jax
import pytest

from jaxmodels.decoding.masked.unmask import MAGE, MaskGIT
from jaxmodels.pytrees import register_dataclass


def twins():
    """Two dataclasses of the same fields, registered alike."""

    @dataclasses.dataclass(frozen=True)
    class First:
        value: object
        size: int

    @dataclasses.dataclass(frozen=True)
    class Second:
        value: object
        size: int

    for kind in (First, Second):
        register_dataclass(kind, ["value"], ["size"])
    return First, Second


def test_structures_of_two_classes_differ():
    first, second = twins()
    assert jax.tree.structure(first(1.0, 2)) == jax.tree.structure(first(3.0, 2))
    assert jax.tree.structure(first(1.0, 2)) != jax.tree.structure(first(1.0, 3))
    assert jax.tree.structure(first(1.0, 2)) != jax.tree.structure(second(1.0, 2))
    assert jax.tree.structure(MaskGIT()) != jax.tree.structure(MAGE())


def test_values_and_names_of_fields_survive():
    first, _ = twins()
    made = jax.tree.map(lambda leaf: leaf + 1, first((1.0, 2.0), 5))
    assert made == first((2.0, 3.0), 5)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(made)]
    assert paths == [".value[0]", ".value[1]"]


@pytest.mark.parametrize(
    ("data", "meta"), [(["value"], []), (["value"], ["size", "other"]), (["value", "size"], ["size"])]
)
def test_fields_that_are_not_those_of_the_class_are_refused(data, meta):
    @dataclasses.dataclass(frozen=True)
    class Pair:
        value: object
        size: int

    with pytest.raises(ValueError, match=re.escape("Pair has the fields ['size', 'value']")):
        register_dataclass(Pair, data, meta)
