"""Loading without copies: parameters that are their file's own pages, and those that cannot be."""

import functools
import mmap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

import jaxmodels as jm
from jaxmodels.layers.spec import walk

# Wide enough that projections are not among the small arrays that are always copied.
WIDTH = 144
LLAMA = {
    "model_type": "llama",
    "vocab_size": 200,
    "hidden_size": WIDTH,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "head_dim": 48,
    "tie_word_embeddings": False,
}
WEIGHTS = "model.safetensors"
MAPS = Path("/proc/self/maps")

needs_maps = pytest.mark.skipif(not MAPS.exists(), reason="maps are read from /proc")


@pytest.fixture(scope="module")
def model():
    return jm.init(jm.config_from_hf(LLAMA))


@pytest.fixture
def saved(model, tmp_path):
    jm.save(model, tmp_path / "saved")
    return tmp_path / "saved"


def mapped_paths(model, file: Path) -> set[str]:
    """The parameters that lie in maps of a file."""
    maps = []
    for line in MAPS.read_text().splitlines():
        if line.endswith(str(file)):
            maps.append([int(end, 16) for end in line.split()[0].split("-")])
    return {
        path
        for path, leaf in walk(model.params)
        if any(start <= leaf.unsafe_buffer_pointer() < end for start, end in maps)
    }


def matrices(model) -> set[str]:
    return {path for path, leaf in walk(model.params) if leaf.ndim > 1}


def assert_same(ours, theirs) -> None:
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


@needs_maps
def test_parameters_of_the_stored_type_are_the_files_pages(model, saved):
    loaded = jm.load(saved)
    assert mapped_paths(loaded, saved / WEIGHTS) == matrices(model)
    assert_same(loaded, model)


@needs_maps
def test_parameters_of_another_type_are_not(model, saved):
    loaded = jm.load(saved, dtype="bfloat16")
    assert mapped_paths(loaded, saved / WEIGHTS) == set()
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.params)
    assert_same(loaded, jm.Model(config=model.config, params=params))


def test_training_in_place_leaves_the_file_alone(model, saved):
    before = (saved / WEIGHTS).read_bytes()
    loaded = jm.load(saved)

    @functools.partial(jax.jit, donate_argnums=0)
    def double(params):
        return jax.tree.map(lambda leaf: 2 * leaf, params)

    doubled = jax.block_until_ready(double(loaded.params))
    jax.tree.map(lambda leaf, other: np.testing.assert_array_equal(leaf, 2 * other), doubled, model.params)
    assert (saved / WEIGHTS).read_bytes() == before


def test_a_loaded_model_outlives_its_file(model, saved):
    loaded = jm.load(saved)
    jm.save(jm.init(model.config, seed=1), saved)
    assert_same(loaded, model)


@needs_maps
@pytest.mark.parametrize("shift", [0, 8, 40])
def test_files_of_other_writers_whatever_their_alignment(model, saved, shift):
    tensors = load_file(saved / WEIGHTS)
    (saved / "checksums.json").unlink()
    starts = set()
    for padding in range(64):  # a longer header moves all tensors
        save_file(tensors, saved / WEIGHTS, metadata={"format": "pt", "padding": "." * padding})
        starts.add(start := (8 + int.from_bytes((saved / WEIGHTS).read_bytes()[:8], "little")) % 64)
        if start == shift:
            break
    else:
        raise AssertionError(f"the library begins tensors at {starts} modulo 64")
    loaded = jm.load(saved)
    assert_same(loaded, model)
    assert mapped_paths(loaded, saved / WEIGHTS) == (matrices(model) if shift == 0 else set())


def test_what_transformers_writes(tmp_path):
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).eval()
    theirs.save_pretrained(tmp_path)
    tokens = np.arange(20).reshape(2, 10)
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(jm.load(tmp_path)(tokens), expected, rtol=1e-4, atol=1e-5)


def test_file_systems_without_maps(model, saved, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no such device")

    monkeypatch.setattr(mmap, "mmap", refuse)
    assert_same(jm.load(saved), model)
