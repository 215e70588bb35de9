"""Shardings of whole models, from shapes alone; what runs on several devices is in `test_on_a_mesh`."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec
from model_helpers import attention, decoder, delta, forward, latent, random_params, ssd

from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.partition import MESH_AXES
from jaxmodels.layers.spec import walk
from jaxmodels.models.costs import weight_bytes
from jaxmodels.tpu_configs.repeated_heads import repeated_params, with_repeated_kv_heads
from jaxmodels.tpu_configs.rules import Rules
from jaxmodels.tpu_configs.shardings import bytes_per_device, cache_shardings, param_shardings


def mesh(**sizes):
    return AbstractMesh(tuple(sizes.get(axis, 1) for axis in MESH_AXES), MESH_AXES)


def whole_vocabulary(config):
    return dataclasses.replace(config, vocab_size=32)


HYBRID = whole_vocabulary(decoder(attention(), ssd(), latent(latent_norm=RMSNorm(dim=7, axis=None))))


def test_parameters_of_a_hybrid():
    shardings = dict(walk(param_shardings(HYBRID, mesh(tensor=2, fsdp=4))))
    specs = {path: sharding.spec for path, sharding in shardings.items()}
    assert list(specs) == [path for path, _ in walk(HYBRID.spec())]
    assert specs["embed/weight"] == PartitionSpec("tensor", "fsdp")
    assert specs["blocks/0/mixer/w_k"] == PartitionSpec("tensor", None, "fsdp")
    assert specs["blocks/0/ffn/w_down"] == PartitionSpec("fsdp", "tensor")
    assert specs["blocks/1/mixer/w_bc"] == PartitionSpec(None, "tensor", None, "fsdp")
    assert specs["blocks/2/mixer/w_kv_down"] == PartitionSpec(None, "fsdp")


def test_the_cache_has_the_tree_of_the_cache():
    shardings = cache_shardings(HYBRID, mesh(tensor=2, data=2), batch=4, capacity=8)
    cache = jax.eval_shape(lambda: HYBRID.init_cache(4, 8))
    assert jax.tree.structure(shardings) == jax.tree.structure(cache)
    assert shardings.length.spec == PartitionSpec("data")
    assert shardings.layers[0].k.spec == PartitionSpec("data", "tensor", None, None)
    assert shardings.layers[1].state.spec == PartitionSpec("data", "tensor", None, None)
    assert shardings.layers[2].entries.spec == PartitionSpec("data", None, None, None)


def test_slots_over_the_sequence_axis():
    shardings = cache_shardings(HYBRID, mesh(sequence=2), Rules(slots="sequence"), batch=1, capacity=8)
    assert shardings.layers[0].k.spec == PartitionSpec(None, None, "sequence", None)
    message = r"mesh: the cache's layers/0/k has 9 'slots', which mesh axis 'sequence' of size 2"
    with pytest.raises(ValueError, match=message):
        cache_shardings(HYBRID, mesh(sequence=2), Rules(slots="sequence"), batch=1, capacity=9)


def test_a_mesh_that_does_not_divide_names_the_parameter():
    message = (
        r"mesh: parameter 'blocks/0/mixer/w_q' has 4 'heads', which mesh axis 'tensor' of size 8 does not "
        r"divide evenly"
    )
    with pytest.raises(ValueError, match=message):
        param_shardings(HYBRID, mesh(tensor=8))


def test_bytes_on_each_device():
    whole = bytes_per_device(HYBRID.spec(), param_shardings(HYBRID, mesh()), "bfloat16")
    assert whole == weight_bytes(HYBRID, "bfloat16")
    cut = bytes_per_device(HYBRID.spec(), param_shardings(HYBRID, mesh(tensor=2)), "bfloat16")
    assert whole / 2 < cut < 0.6 * whole  # norms and latents are whole everywhere


@pytest.mark.wide(every_run=2)
@pytest.mark.parametrize(
    ("mixer", "heads"),
    [
        (attention(num_kv_heads=2, qkv_bias=True), 4),
        (attention(num_kv_heads=1, keys_as_values=True, sink_logits=True), 4),
        (
            attention(
                num_kv_heads=2, norm_across_heads=True, query_norm=RMSNorm(dim=24), key_norm=RMSNorm(dim=12)
            ),
            4,
        ),
        (delta(num_key_heads=2), 4),
        (delta(num_key_heads=1, decay_rank=3, gate_rank=2), 4),
    ],
    ids=["grouped", "one_head", "norm_across_heads", "delta", "kimi"],
)
def test_repeated_heads_compute_the_same(mixer, heads):
    config = decoder(mixer)
    wider = with_repeated_kv_heads(config, heads)
    params = random_params(config.spec())
    repeated = repeated_params(config, wider, params)
    expected = {path: param.shape for path, param in walk(wider.spec())}
    assert {path: leaf.shape for path, leaf in walk(repeated)} == expected
    assert expected != {path: leaf.shape for path, leaf in walk(params)}
    tokens = np.arange(14, dtype=np.int32).reshape(2, 7)
    want, got = forward(config, params, tokens), forward(wider, repeated, tokens)
    assert np.allclose(got, want, atol=2e-6)


def test_heads_that_are_enough_are_left_alone():
    assert with_repeated_kv_heads(HYBRID, 2) is HYBRID
    odd = decoder(attention(num_heads=6, num_kv_heads=3))
    assert with_repeated_kv_heads(odd, 4) is odd  # six query heads are not divided by twelve key heads
