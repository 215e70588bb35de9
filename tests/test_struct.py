import dataclasses

import jax
import pytest

from jaxmodels import struct


@struct.dataclass
class State:
    value: object
    size: int = struct.field(pytree_node=False, default=2)


def test_a_state_is_a_pytree_of_its_fields_and_its_static_ones_are_structure():
    made = State((1.0, 2.0))
    assert jax.tree.map(lambda leaf: leaf + 1, made) == State((2.0, 3.0), 2)
    assert jax.tree.structure(made) != jax.tree.structure(State((1.0, 2.0), 3))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(made)]
    assert paths == [".value[0]", ".value[1]"]


def test_a_state_is_replaced_and_never_changed():
    made = State(1.0)
    assert made.replace(size=5) == State(1.0, 5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.value = 2.0


def test_the_fields_that_hold_subtrees_are_known_of_states_alone():
    assert struct.data_fields(State) == ("value",)
    assert struct.data_fields(dict) is None
