import numpy as np
import pytest
import torch
from diffusers.models.embeddings import PatchEmbed, get_2d_sincos_pos_embed
from diffusers_modules import assert_close, draw, randomised

from jaxmodels.layers.patches import patch_grid, patchify, unpatchify
from jaxmodels.layers.sincos import sincos_grid


def test_unpatchify_is_the_inverse_of_patchify():
    x = draw(2, 6, 4, 3)[0]
    patches = patchify(x, 2)
    assert patches.shape == (2, 6, 12)
    np.testing.assert_array_equal(patches[1, 3], x[1, 2:4, 2:4].reshape(-1))
    np.testing.assert_array_equal(unpatchify(patches, height=6, width=4, patch=2), x)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 12)])
def test_patches_and_positions_are_those_of_diffusers(height, width):
    theirs = randomised(PatchEmbed(8, 8, 2, 3, 24, interpolation_scale=2))
    x, tx = draw(2, height, width, 3)
    kernel = theirs.proj.weight.detach().numpy()  # [D, C, p, q]
    w = kernel.transpose(0, 2, 3, 1).reshape(24, -1)
    ours = patchify(x, 2) @ w.T + theirs.proj.bias.detach().numpy()
    ours = ours + sincos_grid(24, height // 2, width // 2, base=4, interpolation_scale=2.0)
    assert_close(ours, theirs(tx.movedim(-1, 1)), 1e-6)


@pytest.mark.parametrize(
    ("size", "base", "scale"), [((5, 3), 16, 1.0), ((32, 32), 16, 1.5), ((1, 7), 4, 1.0)]
)
def test_positions_of_odd_grids(size, base, scale):
    theirs = get_2d_sincos_pos_embed(20, size, base_size=base, interpolation_scale=scale, output_type="pt")
    ours = sincos_grid(20, *size, base=base, interpolation_scale=scale)
    np.testing.assert_allclose(ours, theirs.to(torch.float32).numpy(), atol=1e-7)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="2 x 2 do not divide an image of 6 x 5"):
        patch_grid(6, 5, 2)
    with pytest.raises(ValueError, match="7 patches are no image of 4 x 8, which has 2 x 4"):
        unpatchify(draw(1, 7, 4)[0], height=4, width=8, patch=2)
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        sincos_grid(6, 2, 2, base=2)
