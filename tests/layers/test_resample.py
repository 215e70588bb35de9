"""Images at other sizes, against torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jaxmodels.layers.resample import area_matrix, cubic_matrix, resampled


@pytest.mark.parametrize(("small", "large"), [(1, 5), (4, 8), (13, 16), (3, 16)])
def test_enlarging_and_reducing_are_those_of_torch(small, large):
    x = torch.randn(2, 3, small, small, generator=torch.Generator().manual_seed(0))
    y = torch.randn(2, 3, large, large, generator=torch.Generator().manual_seed(1))
    cubic = F.interpolate(x, size=(large, large), mode="bicubic")
    area = F.interpolate(y, size=(small, small), mode="area")
    for image, matrix, expected in (
        (x, cubic_matrix(small, large), cubic),
        (y, area_matrix(large, small), area),
    ):
        made = resampled(image.permute(0, 2, 3, 1).numpy(), matrix)
        np.testing.assert_allclose(made, expected.permute(0, 2, 3, 1).numpy(), atol=5e-6)
