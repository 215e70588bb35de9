import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from model_helpers import D_MODEL, mamba, random_params
from recurrent_mixers import MAMBA, draw, forward

from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.spec import abstract_params, count_params, init_params, walk


def reference(name, mixer):
    """The mixer of transformers with the same sizes."""
    sizes = {"vocab_size": 9, "hidden_size": D_MODEL, "num_hidden_layers": 1}
    if name == "jamba":
        from transformers.models.jamba.modeling_jamba import JambaConfig, JambaMambaMixer

        config = JambaConfig(
            **sizes,
            mamba_d_state=mixer.state_dim,
            mamba_d_conv=mixer.conv_width,
            mamba_dt_rank=mixer.dt_rank,
            mamba_conv_bias=mixer.conv_bias,
            mamba_proj_bias=mixer.projection_bias,
            mamba_expand=mixer.d_inner // D_MODEL,
            rms_norm_eps=1e-3,
        )
        return JambaMambaMixer(config, 0)
    sizes |= {
        "state_size": mixer.state_dim,
        "expand": mixer.d_inner // D_MODEL,
        "conv_kernel": mixer.conv_width,
        "time_step_rank": mixer.dt_rank,
        "use_conv_bias": mixer.conv_bias,
        "use_bias": mixer.projection_bias,
    }
    if name == "falcon_mamba":
        from transformers.models.falcon_mamba.modeling_falcon_mamba import FalconMambaConfig, FalconMambaMixer

        config = FalconMambaConfig(**sizes, mixer_rms_eps=1e-2)
        return FalconMambaMixer(config, 0, initialize_mixer_weights=False)
    from transformers.models.mamba.modeling_mamba import MambaConfig, MambaMixer

    config = MambaConfig(**sizes)
    return MambaMixer(config, 0)


# Ours in the order in which they stand in theirs.
NAMES = {
    "w_x": "in_proj.weight", "w_z": "in_proj.weight", "b_x": "in_proj.bias", "b_z": "in_proj.bias",
    "conv_w": "conv1d.weight", "conv_b": "conv1d.bias", "w_dt_down": "x_proj.weight",
    "w_bc": "x_proj.weight", "w_dt_up": "dt_proj.weight",
    "dt_bias": "dt_proj.bias", "a_log": "A_log",
    "d_skip": "D", "w_out": "out_proj.weight", "b_out": "out_proj.bias",
    "dt_norm/scale": "dt_layernorm.weight", "b_norm/scale": "b_layernorm.weight",
    "c_norm/scale": "c_layernorm.weight",
}  # fmt: skip


def fill(module, params):
    """Gives a module our parameters; both have the same ones."""
    parts, leaves = {}, dict(walk(params))
    for path, name in NAMES.items():
        if path in leaves:
            leaf = leaves[path] if path != "w_bc" else leaves[path].reshape(-1, leaves[path].shape[-1])
            tensor = torch.tensor(np.array(leaf.T if path in ("conv_w", "a_log") else leaf))
            parts.setdefault(name, []).append(tensor[:, None] if path == "conv_w" else tensor)
    module.load_state_dict({name: torch.cat(tensors) for name, tensors in parts.items()})
    return module.eval()


@pytest.fixture(scope="module", params=MAMBA)
def case(request):
    mixer = MAMBA[request.param]
    return request.param, mixer, random_params(mixer.spec())


def test_against_transformers(case):
    name, mixer, params = case
    x = draw(2, 19)
    with torch.no_grad():
        expected = fill(reference(name, mixer), params)(torch.tensor(x)).numpy()
    np.testing.assert_allclose(forward(mixer, params, x), expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_close_to_transformers():
    """Decays and states stay in float32 in both, projections do not."""
    mixer = MAMBA["falcon_mamba"]
    params, x = random_params(mixer.spec()), draw(1, 12)
    module = fill(reference("falcon_mamba", mixer), params).to(torch.bfloat16)
    with torch.no_grad():
        expected = module(torch.tensor(x, dtype=torch.bfloat16)).float().numpy()
    dtypes = abstract_params(mixer.spec(), jnp.bfloat16)
    narrow = jax.tree.map(lambda a, spec: a.astype(spec.dtype), params, dtypes)
    ours = forward(mixer, narrow, jnp.asarray(x, jnp.bfloat16))
    assert ours.dtype == jnp.bfloat16
    error = np.asarray(ours, np.float32) - expected
    assert np.sqrt((error**2).mean()) < 0.02 * expected.std()


def test_initial_values_are_those_of_the_paper():
    spec = mamba(d_inner=64).spec()
    names = ("a_log", "dt_bias", "d_skip")
    params = init_params({name: spec[name] for name in names}, jax.random.key(0))
    np.testing.assert_allclose(np.exp(params["a_log"]), np.tile(np.arange(1, 6)[:, None], 64), rtol=1e-6)
    dt = np.log1p(np.exp(np.asarray(params["dt_bias"], np.float64)))
    assert 1e-3 * (1 - 1e-5) <= dt.min() < 3e-3
    assert 3e-2 < dt.max() <= 1e-1 * (1 + 1e-5)
    assert (params["d_skip"] == 1).all()
    dtypes = {path: leaf.dtype for path, leaf in walk(abstract_params(spec, jnp.bfloat16))}
    assert {path for path, dtype in dtypes.items() if dtype == jnp.float32} == set(params)


def test_a_token_costs_its_weights_and_its_state():
    mixer = mamba(conv_bias=False)
    not_multiplied = {"dt_bias": 32, "a_log": 5 * 32, "d_skip": 32}
    weights = 2 * (count_params(mixer.spec()) - sum(not_multiplied.values()))
    assert mixer.flops_per_token(0) == weights
    assert mixer.flops_per_token(1) == mixer.flops_per_token(10**6) == weights + 6 * 5 * 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state_dim": 0}, "state_dim=0 must be at least 1"),
        ({"dt_rank": -1}, "dt_rank=-1 must be at least 1"),
        ({"conv_width": 1}, "conv_width=1 must be at least 2"),
        ({"dt_norm": RMSNorm(dim=5)}, "dt_norm: dim=5 must be dt_rank=3"),
        ({"c_norm": RMSNorm(dim=3)}, "c_norm: dim=3 must be state_dim=5"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        mamba(**changes)
