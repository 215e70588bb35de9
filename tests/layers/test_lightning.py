import numpy as np
import pytest
import torch
from model_helpers import D_MODEL, lightning, random_params
from recurrent_mixers import draw, forward
from transformers.models.minimax.modeling_minimax import MiniMaxConfig, MiniMaxLightningAttention

from jaxmodels.layers.lightning import lightning_slope_scale
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.spec import count_params


def reference(mixer, params, layer, layers):
    """transformers' module with our parameters. Its projection holds each head's query, key and value."""
    config = MiniMaxConfig(
        hidden_size=D_MODEL,
        num_attention_heads=mixer.num_heads,
        head_dim=mixer.head_dim,
        num_hidden_layers=layers,
        block_size=5,
        hidden_act=mixer.activation,
    )
    module = MiniMaxLightningAttention(config, layer)
    p = {name: np.asarray(leaf) for name, leaf in params.items() if name != "norm"}
    fused = np.stack([p["w_q"], p["w_k"], p["w_v"]], axis=1).reshape(-1, D_MODEL)
    tensors = {
        "qkv_proj.weight": fused,
        "output_gate.weight": p["w_gate"].reshape(-1, D_MODEL),
        "out_proj.weight": p["w_o"].reshape(D_MODEL, -1),
        "norm.weight": np.asarray(params["norm"]["scale"]),
    }
    tensors = {name: torch.tensor(np.ascontiguousarray(a)) for name, a in tensors.items()}
    module.load_state_dict(dict(module.named_buffers()) | tensors)
    return module.eval()


@pytest.mark.parametrize(
    ("layer", "layers", "changes"),
    [
        (0, 1, {}),
        (1, 3, {"num_heads": 3, "norm": RMSNorm(dim=18)}),
        (2, 3, {"activation": "gelu", "chunk_size": 64}),
    ],
)
def test_against_transformers(layer, layers, changes):
    mixer = lightning(slope_scale=lightning_slope_scale(layer, layers), **changes)
    params, x = random_params(mixer.spec()), draw(2, 19)
    with torch.no_grad():
        expected = reference(mixer, params, layer, layers)(torch.tensor(x), None, None)[0].numpy()
    np.testing.assert_allclose(forward(mixer, params, x), expected, rtol=1e-4, atol=1e-5)


def test_a_token_costs_its_weights_and_its_state():
    mixer = lightning()
    weights = 2 * (count_params(mixer.spec()) - 24)  # the norm's scale
    assert mixer.flops_per_token(0) == weights
    assert mixer.flops_per_token(1) == mixer.flops_per_token(10**6) == weights + 5 * 4 * 6 * 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 0}, "num_heads=0 must be at least 1"),
        ({"chunk_size": 0}, "chunk_size=0 must be at least 1"),
        ({"head_dim": 5}, r"dim=24 must be num_heads \* head_dim = 4 \* 5 = 20"),
        ({"slope_scale": -0.1}, "slope_scale=-0.1 must not be negative"),
        ({"activation": "none"}, "activation 'none' is not known"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        lightning(**changes)
