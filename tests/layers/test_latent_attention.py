import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from model_helpers import D_MODEL, latent, quick_jit, random_params
from transformers import DeepseekV2Config, DeepseekV3Config
from transformers.models.deepseek_v2 import modeling_deepseek_v2
from transformers.models.deepseek_v3 import modeling_deepseek_v3

from jaxmodels.layers.latent_attention import LatentAttention
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.rope import Rope, rope_from_hf
from jaxmodels.layers.rope_scaling import YarnScaling
from jaxmodels.layers.spec import abstract_params, count_params, init_state, walk
from jaxmodels.layers.window import Window, fresh_window
from jaxmodels.layers.window import peek as peek_window

YARN = YarnScaling(factor=4.0, original_max_position_embeddings=16, mscale=0.7, mscale_all_dim=1.3)
VARIANTS = {
    "plain_queries": latent(),
    "query_latent_biases": latent(query_rank=9, query_norm=RMSNorm(dim=9), bias=True),
    "no_rope_own_scale": latent(rope=None, scale=0.9, num_heads=3),
    "one_head_halves_yarn": latent(num_heads=1, value_dim=11, rope=Rope(rotary_dim=4, scaling=YARN)),
}


def draw(batch, size, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, size, D_MODEL)).astype(np.float32)


def rms(x, scale, eps=1e-6):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale


def rotate(x, rope):
    """[S, N, X] at positions 0, 1, ..."""
    half = rope.rotary_dim // 2
    frequencies, factor = rope.scaling.frequencies(rope.rotary_dim, rope.theta, np.zeros(1, np.int32))
    turn = factor * np.exp(1j * np.arange(len(x))[:, None, None] * np.asarray(frequencies, np.float64))
    if rope.style == "interleaved":
        pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack([pairs.real, pairs.imag], axis=-1).reshape(x.shape)
    pairs = (x[..., :half] + 1j * x[..., half:]) * turn
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def by_hand(layer, params, x):
    """One causal sequence [S, D] with the keys and values of every head written out, in float64."""
    p = {path: np.asarray(leaf, np.float64) for path, leaf in walk(params)}
    x = x.astype(np.float64)
    c = rms(x @ p["w_kv_down"].T + p.get("b_kv_down", 0), p["latent_norm/scale"])
    r = (x @ p["w_k_rope"].T + p.get("b_k_rope", 0))[:, None]
    if layer.query_rank is None:
        q = np.einsum("sd,nud->snu", x, p["w_q"])
    else:
        queries = rms(x @ p["w_q_down"].T + p.get("b_q_down", 0), p["query_norm/scale"])
        q = np.einsum("sj,nuj->snu", queries, p["w_q_up"])
    q, shared = q[..., : layer.key_dim], q[..., layer.key_dim :]
    scale = layer.scale or (layer.key_dim + layer.rope_dim) ** -0.5
    if layer.rope is not None:
        shared, r = rotate(shared, layer.rope), rotate(r, layer.rope)
        if layer.rope.scaling is YARN:
            scale *= (1 + 0.1 * YARN.mscale_all_dim * np.log(YARN.factor)) ** 2
    k, v = np.einsum("tr,nhr->tnh", c, p["w_uk"]), np.einsum("tr,nri->tni", c, p["w_uv"])
    logits = np.einsum("snh,tnh->nst", q, k) + np.einsum("snx,tx->nst", shared, r[:, 0])
    weights = np.exp(scale * logits) * np.tril(np.ones((len(x), len(x))))
    out = np.einsum("nst,tni->sni", weights / weights.sum(-1, keepdims=True), v)
    return np.einsum("sni,dni->sd", out, p["w_o"]) + p.get("b_o", 0)


@functools.partial(quick_jit, static_argnums=0)
def forward(layer, params, x, valid):
    return layer.forward(params, x, fresh_window(jnp.zeros(x.shape[:2], jnp.int32), valid))


@functools.partial(quick_jit, static_argnums=0)
def peek(layer, params, x, state, start):
    size = x.shape[1]
    window = Window(
        start=start, positions=start[:, None] + jnp.arange(size), valid=jnp.full(start.shape, size)
    )
    return peek_window(layer, params, x, state, window)


def close(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=2e-5)


@pytest.fixture(scope="module", params=VARIANTS)
def case(request):
    layer = VARIANTS[request.param]
    return layer, random_params(layer.spec())


def test_both_forms_against_the_definition(case):
    """Keys and values of each head without a cache; absorbed into queries and outputs with one."""
    layer, params = case
    x, lengths = draw(2, 9), (9, 6)
    whole = forward(layer, params, x, jnp.asarray(lengths))
    for row, n in enumerate(lengths):
        close(whole[row, :n], by_hand(layer, params, x[row, :n]))
    state = init_state(layer, 2, 13, jnp.float32)
    for start, stop in ((0, 5), (5, 6), (6, 9)):
        y, pending = peek(layer, params, x[:, start:stop], state, jnp.full((2,), start, jnp.int32))
        for row in range(2):
            close(y[row], by_hand(layer, params, x[row])[start:stop])
        state = layer.commit(pending)


@pytest.mark.wide(every_run=2)
def test_windows_of_many_queries_expand_the_cache_to_the_same_result(case):
    layer, _ = case
    layer = dataclasses.replace(layer, key_dim=2, value_dim=2, kv_rank=6, latent_norm=RMSNorm(dim=6))
    assert layer.queries_to_expand == 3
    params = random_params(layer.spec())
    x = draw(2, 16)
    state = init_state(layer, 2, 18, jnp.float32)
    for start, stop in ((0, 4), (4, 6), (6, 7), (7, 16)):  # expanded, absorbed, absorbed, expanded
        y, pending = peek(layer, params, x[:, start:stop], state, jnp.full((2,), start, jnp.int32))
        for row in range(2):
            close(y[row], by_hand(layer, params, x[row])[start:stop])
        state = layer.commit(pending)


@pytest.mark.parametrize(
    ("module", "config"),
    [
        (
            modeling_deepseek_v2.DeepseekV2Attention,
            DeepseekV2Config(q_lora_rank=None, attention_bias=True, rope_parameters={"rope_type": "default"}),
        ),
        (
            modeling_deepseek_v2.DeepseekV2Attention,
            DeepseekV2Config(
                q_lora_rank=10,
                rope_parameters={
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 16,
                    "mscale": 0.707,
                    "mscale_all_dim": 0.9,
                },
            ),
        ),
        (
            modeling_deepseek_v3.DeepseekV3Attention,
            DeepseekV3Config(q_lora_rank=10, attention_bias=True, rope_parameters={"rope_type": "default"}),
        ),
        (
            modeling_deepseek_v3.DeepseekV3Attention,
            DeepseekV3Config(
                q_lora_rank=None,
                rope_interleave=False,
                rope_parameters={
                    "rope_type": "yarn",
                    "factor": 3.0,
                    "original_max_position_embeddings": 16,
                    "mscale_all_dim": 1.2,
                },
            ),
        ),
    ],
    ids=["v2", "v2_query_latent_yarn", "v3_query_latent", "v3_halves_yarn"],
)
def test_against_the_modules_of_transformers(module, config):
    for name, value in {
        "hidden_size": D_MODEL,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "kv_lora_rank": 10,  # torch wants an even number of features in front of the rotated ones
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 6,
        "head_dim": 6,
        "v_head_dim": 4,
    }.items():
        setattr(config, name, value)
    config._attn_implementation = "eager"
    config.rope_parameters["rope_theta"] = 100.0
    torch.manual_seed(0)
    theirs = module(config, 0).eval()
    for parameter in theirs.parameters():
        parameter.data = torch.randn_like(parameter) * 0.5
    interleaved = getattr(config, "rope_interleave", True)
    rope = rope_from_hf(
        {"rope_parameters": config.rope_parameters}, 6, style="interleaved" if interleaved else "half_split"
    )
    layer = LatentAttention(
        d_model=D_MODEL,
        num_heads=3,
        kv_rank=10,
        key_dim=8,
        rope_dim=6,
        value_dim=4,
        latent_norm=RMSNorm(dim=10),
        query_rank=config.q_lora_rank,
        query_norm=RMSNorm(dim=10) if config.q_lora_rank else None,
        rope=rope,
        bias=config.attention_bias,
    )
    x = draw(2, 11)
    ours = forward(layer, params_of(theirs), x, jnp.asarray([11, 11]))
    np.testing.assert_allclose(ours, run_module(theirs, module, config, x), rtol=1e-4, atol=1e-4)


def params_of(module):
    """The module's tensors under our names."""
    tensors = {name: tensor.detach().numpy() for name, tensor in module.named_parameters()}
    heads = tensors["kv_b_proj.weight"].reshape(3, 8 + 4, 10)
    params = {
        "w_kv_down": tensors["kv_a_proj_with_mqa.weight"][:10],
        "w_k_rope": tensors["kv_a_proj_with_mqa.weight"][10:],
        "latent_norm": {"scale": tensors["kv_a_layernorm.weight"]},
        "w_uk": heads[:, :8],
        "w_uv": heads[:, 8:].swapaxes(1, 2),
        "w_o": tensors["o_proj.weight"].reshape(D_MODEL, 3, 4),
    }
    if "q_proj.weight" in tensors:
        params["w_q"] = tensors["q_proj.weight"].reshape(3, 14, D_MODEL)
    else:
        params["w_q_down"] = tensors["q_a_proj.weight"]
        params["query_norm"] = {"scale": tensors["q_a_layernorm.weight"]}
        params["w_q_up"] = tensors["q_b_proj.weight"].reshape(3, 14, 10)
    if "kv_a_proj_with_mqa.bias" in tensors:
        params["b_kv_down"], params["b_k_rope"] = np.split(tensors["kv_a_proj_with_mqa.bias"], [10])
    theirs = {"b_q_down": "q_a_proj.bias", "b_o": "o_proj.bias"}
    params |= {ours: tensors[name] for ours, name in theirs.items() if name in tensors}
    return jax.tree.map(jnp.asarray, params)


def run_module(theirs, module, config, x):
    x, positions = torch.tensor(x), torch.arange(x.shape[1])[None]
    family = modeling_deepseek_v2 if module.__name__.startswith("DeepseekV2") else modeling_deepseek_v3
    rotary = getattr(family, module.__name__.replace("Attention", "RotaryEmbedding"))(config)
    mask = torch.full((x.shape[1], x.shape[1]), -torch.inf).triu(1)[None, None]
    with torch.no_grad():
        return theirs(x, attention_mask=mask, position_embeddings=rotary(x, positions))[0].numpy()


# --- what is kept, and what it costs -----------------------------------------------------------------


def test_the_cache_holds_a_latent_and_a_shared_key_per_token():
    """Nothing per head."""
    for layer in (latent(), latent(num_heads=64)):
        states = [init_state(layer, 1, slots, jnp.bfloat16) for slots in (8, 9)]
        small, large = (sum(leaf.nbytes for leaf in jax.tree.leaves(state)) for state in states)
        assert large - small == 2 * (layer.kv_rank + layer.rope_dim) + 4  # and the slot's position


def big_layer():
    return latent(
        d_model=128,
        num_heads=16,
        kv_rank=64,
        key_dim=32,
        rope_dim=16,
        value_dim=24,
        latent_norm=RMSNorm(dim=64),
        query_rank=48,
        query_norm=RMSNorm(dim=48),
        rope=Rope(rotary_dim=16, style="interleaved"),
    )


def test_one_decoded_token_works_on_latents():
    """Two operations per weight, and those of multi-query attention to the latents: no key is expanded."""
    layer, slots = big_layer(), 64

    def one_token(params, x, state, start):
        y, pending = peek.__wrapped__(layer, params, x, state, start)
        return y, layer.commit(pending)

    state = jax.eval_shape(lambda: init_state(layer, 1, slots, jnp.float32))
    x, start = jax.ShapeDtypeStruct((1, 1, 128), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    lowered = jax.jit(one_token, donate_argnums=2).lower(abstract_params(layer.spec()), x, state, start)
    compiled = lowered.compile(compiler_options={"xla_backend_optimization_level": 0})
    needed = 2 * count_params(layer.spec()) + 2 * 16 * (64 + 16 + 64) * slots
    assert 0.98 * needed < compiled.cost_analysis()["flops"] <= 1.15 * needed
    assert layer.flops_per_token(slots) == pytest.approx(needed, rel=0.01)
    assert layer.flops_per_token(0) == pytest.approx(2 * count_params(layer.spec()), rel=0.01)


def test_a_whole_sequence_is_attended_in_the_narrow_width_of_heads():
    layer, size = big_layer(), 256
    x = jax.ShapeDtypeStruct((1, size, 128), jnp.float32)

    valid = jax.ShapeDtypeStruct((1,), jnp.int32)
    whole = forward.lower(layer, abstract_params(layer.spec()), x, valid).compile().cost_analysis()["flops"]
    weights = size * layer.flops_per_token(0)
    assert weights + 2 * 16 * (32 + 16 + 24) * size**2 < whole
    assert whole < weights + 2 * 16 * (64 + 16 + 64) * size**2


def test_so_is_a_window_with_more_queries_than_the_expansion_costs():
    layer = big_layer()
    assert 49 < layer.queries_to_expand < 50

    def flops(size):
        state = jax.eval_shape(lambda: init_state(layer, 1, 256, jnp.float32))
        x, start = jax.ShapeDtypeStruct((1, size, 128), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
        lowered = peek.lower(layer, abstract_params(layer.spec()), x, state, start)
        found = lowered.compile().cost_analysis()["flops"]
        return found - size * 2 * (count_params(layer.spec()) - 16 * 64 * (32 + 24))

    absorbing, absorbed = 2 * 16 * 64 * (32 + 24) * 49, 2 * 16 * (64 + 16 + 64) * 49 * 256
    assert absorbing + absorbed < flops(49) < 1.1 * (absorbing + absorbed)
    making, met = 2 * 16 * 64 * (32 + 24) * 256, 2 * 16 * (32 + 16 + 24) * 200 * 256
    assert making + met < flops(200) < 1.1 * (making + met)


def test_expanding_makes_a_block_of_keys_at_a_time():
    """Keys and values of all heads are never there for the whole cache."""
    layer, size = big_layer(), 512

    def temporary(capacity):
        state = jax.eval_shape(lambda: init_state(layer, 1, capacity, jnp.float32))
        x, start = jax.ShapeDtypeStruct((1, size, 128), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
        lowered = jax.jit(lambda p, x, s, at: peek.__wrapped__(layer, p, x, s, at)[0]).lower(
            abstract_params(layer.spec()), x, state, start
        )
        return lowered.compile().memory_analysis().temp_size_in_bytes

    growth = (temporary(16384) - temporary(4096)) / (16384 - 4096)
    entry, all_heads = 4 * (64 + 16), 4 * 16 * (32 + 16 + 24)
    assert growth < 2 * entry + 64 < all_heads / 4  # the entries themselves may be copied


@pytest.mark.parametrize(("params_dtype", "state_dtype"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_the_state_keeps_its_types(params_dtype, state_dtype):
    layer = VARIANTS["query_latent_biases"]
    params = abstract_params(layer.spec(), params_dtype)
    state = jax.eval_shape(lambda: init_state(layer, 2, 9, state_dtype))
    i32 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
    for size in (1, 4):
        x = jax.ShapeDtypeStruct((2, size, D_MODEL), params_dtype)
        y, pending = jax.eval_shape(functools.partial(peek.__wrapped__, layer), params, x, state, i32((2,)))
        assert y.dtype == params_dtype
        for arguments in ((), (i32((2,)),), (i32((2,)), i32((2, size)))):
            assert jax.eval_shape(layer.commit, pending, *arguments) == state


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_rank": 0}, "kv_rank=0 must be at least 1"),
        ({"rope_dim": 6}, "rotary_dim=4 must be rope_dim=6"),
        ({"query_rank": 8}, "query_rank=8 and query_norm=None: give both or neither"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        latent(**changes)
