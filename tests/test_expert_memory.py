import jax
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh
from model_helpers import D_MODEL, attention, decoder

import jaxmodels as jm
from jaxmodels.expert_memory import check_expert_memory, expert_paths
from jaxmodels.holding import Holding
from jaxmodels.layers.host_memory import MEMORY_KIND, in_host_memory
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.moe import Dense, GatedExperts, MoE, SoftmaxTopK
from jaxmodels.layers.quantized.packed import PackedStack
from jaxmodels.layers.quantized.quantization import find_quantization
from jaxmodels.layers.spec import walk
from jaxmodels.tpu_configs.mesh import make_mesh
from jaxmodels.tpu_configs.rules import DEFAULT_RULES, Rules
from jaxmodels.tpu_configs.shardings import Placement
from jaxmodels.training.train import first_state

NAME = "tiny-hybrid-moe"


@pytest.fixture(scope="module")
def host_model():
    return jm.load(NAME, experts="host")


def test_the_weights_of_experts_and_no_others_are_read_to_the_host(host_model):
    there = {path for path, leaf in walk(host_model.params) if in_host_memory(leaf)}
    assert there == expert_paths(host_model.config)
    assert {path.rsplit("/", 2)[1] for path in there} == {"experts"}
    kinds = {leaf.sharding.memory_kind for path, leaf in walk(host_model.params) if path in there}
    assert kinds == {MEMORY_KIND}


@pytest.mark.sweep
def test_the_same_tokens_as_from_the_device(host_model):
    prompts = ["Once upon a time", "def"]
    wanted, got = (model.generate(prompts, 12) for model in (jm.load(NAME), host_model))
    np.testing.assert_array_equal(wanted.tokens, got.tokens)


def test_what_computes_with_all_weights_is_refused(host_model, tmp_path):
    for what, call in {
        "save": lambda: jm.save(host_model, tmp_path / "saved"),
        "quantized": lambda: host_model.quantized("int8"),
        "training": lambda: first_state(host_model.params, optax.sgd(0.1)),
    }.items():
        with pytest.raises(ValueError, match=rf"{what}: parameter 'blocks/1/ffn/experts/w_\w+' lies in host"):
            call()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name_or_path": NAME, "experts": "disk"},
            "experts must be 'device', 'host' or a HostExperts, got 'disk'",
        ),
        ({"name_or_path": "tiny-mamba2"}, "experts='host': the model has no mixture of experts"),
        ({"name_or_path": "tiny-dit"}, "experts='host' is for models of text, and this is an image model"),
        ({"name_or_path": NAME, "adapter": "a"}, "experts='host' with an adapter: merging computes with"),
    ],
)
def test_load_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        jm.load(**{"experts": "host", **arguments})


@pytest.mark.sweep
def test_experts_in_few_bits_are_fetched_with_their_scales():
    here, there = (jm.load(NAME, quantize="int4", experts=memory) for memory in ("device", "host"))
    packed = {path for path, leaf in walk(there.params) if isinstance(leaf, PackedStack)}
    assert packed == expert_paths(there.config)
    assert all(in_host_memory(leaf) == (path in packed) for path, leaf in walk(there.params))
    np.testing.assert_array_equal(*(model(np.array([[1, 5, 9]])) for model in (here, there)))


def test_a_mesh_has_its_experts_in_the_memory_of_its_hosts(host_model):
    mesh = make_mesh(devices=jax.devices()[:1])
    spread = jm.load(NAME, mesh=mesh, experts="host")
    places = {path: leaf.sharding for path, leaf in walk(spread.params)}
    kinds = {place.memory_kind for path, place in places.items() if path in expert_paths(spread.config)}
    assert kinds == {MEMORY_KIND} and {place.mesh for place in places.values()} == {mesh}
    np.testing.assert_array_equal(*(model(np.array([[1, 5, 9]])) for model in (host_model, spread)))


def test_a_model_of_one_device_is_not_spread_afterwards(host_model):
    message = "'blocks/1/ffn/experts/w_up' lies in host memory, and not beside the devices of this mesh"
    with pytest.raises(ValueError, match=message):
        Placement(mesh=AbstractMesh((2,), ("expert",))).put(host_model.config, host_model.params)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            DEFAULT_RULES,
            "'embed' of parameter .* is cut over 'fsdp' of the mesh, and each .* that is no axis",
        ),
        (Rules(embed=None, experts=None), "'experts' of .* is cut over no axis of the mesh, .* is 'expert'"),
    ],
)
def test_a_mesh_that_cuts_experts_otherwise_is_refused(host_model, rules, message):
    mesh = AbstractMesh((2, 2, 2), ("fsdp", "expert", "tensor"))
    holding = Holding(placement=Placement(mesh=mesh, rules=rules), experts="host")
    with pytest.raises(ValueError, match=f"experts='host' with a mesh: {message}"):
        holding.shardings(host_model.config)


def test_devices_that_would_share_a_scale_are_refused(host_model):
    mesh = AbstractMesh((2,), ("tensor",))
    quantization = find_quantization("int4")
    holding = Holding(placement=Placement(mesh=mesh), quantization=quantization, experts="host")
    with pytest.raises(ValueError, match=r"'blocks/1/ffn/experts/w_down' has 3 groups .* 'tensor' of size 2"):
        holding.made_of(host_model.config, "float32")


def test_devices_that_would_keep_experts_each_for_itself_are_refused():
    mesh = AbstractMesh((2,), ("expert",))
    with pytest.raises(ValueError, match="with a mesh of 2 devices: experts are kept on a single device"):
        check_expert_memory(jm.HostExperts(kept=2), mesh)


def test_a_layer_that_computes_with_all_experts_is_named():
    ffn = MoE(
        router=SoftmaxTopK(d_model=D_MODEL, num_experts=4, top_k=2),
        experts=GatedExperts(num_experts=4, d_model=D_MODEL, d_ff=16),
        shared=GatedMLP(d_model=D_MODEL, d_ff=16),
        dispatch=Dense(),
    )
    config = decoder(attention(), ffn=ffn)
    message = r"'blocks/0/ffn/experts/w_gate' belongs to a layer .* with dispatch=Dense\(\); leave it out"
    with pytest.raises(ValueError, match=message):
        expert_paths(config)


def test_a_backend_without_such_memory_is_named(monkeypatch):
    monkeypatch.setattr("jaxmodels.expert_memory.MEMORY_KIND", "elsewhere")
    with pytest.raises(ValueError, match="experts='host': cpu has no elsewhere memory, only device, pinned_"):
        jm.load(NAME, experts="host")
