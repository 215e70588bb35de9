import numpy as np
import pytest
import torch
from model_helpers import D_MODEL, random_params, short_conv
from recurrent_mixers import SHORT_CONV, draw, forward

from jaxmodels.layers.spec import count_params, walk

# Ours in the order in which they stand in theirs.
NAMES = {
    "w_b": "in_proj.weight", "w_c": "in_proj.weight", "w_x": "in_proj.weight",
    "b_b": "in_proj.bias", "b_c": "in_proj.bias", "b_x": "in_proj.bias",
    "conv_w": "conv.weight", "conv_b": "conv.bias", "w_out": "out_proj.weight", "b_out": "out_proj.bias",
}  # fmt: skip


def reference(mixer, params):
    """The layer of transformers with our parameters."""
    from transformers.models.lfm2.modeling_lfm2 import Lfm2Config, Lfm2ShortConv

    config = Lfm2Config(
        hidden_size=D_MODEL,
        num_hidden_layers=1,
        conv_L_cache=mixer.conv_width,
        conv_bias=mixer.bias,
        layer_types=["conv"],
    )
    module = Lfm2ShortConv(config, 0)
    parts, leaves = {}, dict(walk(params))
    for path, name in NAMES.items():
        if path in leaves:
            tensor = torch.tensor(np.array(leaves[path].T if path == "conv_w" else leaves[path]))
            parts.setdefault(name, []).append(tensor[:, None] if path == "conv_w" else tensor)
    module.load_state_dict({name: torch.cat(tensors) for name, tensors in parts.items()})
    return module.eval()


@pytest.fixture(scope="module", params=SHORT_CONV)
def case(request):
    mixer = SHORT_CONV[request.param]
    return mixer, random_params(mixer.spec())


def test_against_transformers(case):
    mixer, params = case
    x = draw(2, 9)
    with torch.no_grad():
        expected = reference(mixer, params)(torch.tensor(x)).numpy()
    np.testing.assert_allclose(forward(mixer, params, x), expected, rtol=1e-4, atol=1e-5)


def test_a_token_costs_its_weights():
    mixer = short_conv()
    assert mixer.flops_per_token(0) == mixer.flops_per_token(10**6) == 2 * count_params(mixer.spec())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 0}, "d_model=0 must be at least 1"),
        ({"conv_width": 1}, "conv_width=1 must be at least 2"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        short_conv(**changes)
