"""Meshes by their sizes, and what is said where the sizes and the devices do not agree."""

import jax
import pytest

from jaxmodels.layers.partition import MESH_AXES, axis_size
from jaxmodels.tpu_configs.mesh import make_mesh, mesh_sizes


def test_all_axes_exist():
    mesh = make_mesh()
    assert mesh.axis_names == MESH_AXES and set(mesh.shape.values()) == {1}
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


def test_too_few_devices():
    message = r"expert=2, tensor=4 need 8 devices, and there are 1; the product"
    with pytest.raises(ValueError, match=message):
        make_mesh(tensor=4, expert=2, devices=jax.devices()[:1])


@pytest.mark.parametrize("size", [0, -2, 1.5, "two"])
def test_a_size_that_is_no_count(size):
    with pytest.raises(ValueError, match="mesh axis 'fsdp' must be a whole number"):
        make_mesh(fsdp=size)


def test_sizes_from_text():
    assert mesh_sizes("tensor=4, data=2") == {"tensor": 4, "data": 2}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tensr=4", "'tensr=4' is not of the form axis=size with an axis of data, fsdp"),
        ("tensor", "'tensor' is not of the form"),
        ("", "is not of the form"),
        ("tensor=4,tensor=2", "axis 'tensor' is given twice in 'tensor=4,tensor=2'"),
        ("tensor=four", "the size of axis 'tensor' must be a whole number, got 'four'"),
        ("tensor=0", "mesh axis 'tensor' must be a whole number >= 1 and <= 2147483647, got 0"),
    ],
)
def test_text_that_gives_no_sizes(text, told):
    with pytest.raises(ValueError, match=told):
        mesh_sizes(text)


def test_axis_sizes_of_the_mesh_in_use():
    assert axis_size("expert") == 1
    mesh = jax.sharding.AbstractMesh((1, 2, 1, 4, 1), MESH_AXES)
    with jax.sharding.use_abstract_mesh(mesh):
        assert (axis_size("expert"), axis_size("expert", "fsdp"), axis_size("tensor")) == (4, 8, 1)
