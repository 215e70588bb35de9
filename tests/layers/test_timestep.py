import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.embeddings import TimestepEmbedding as TheirEmbedding
from diffusers.models.embeddings import get_timestep_embedding
from diffusers_modules import assert_close, randomised, weights_of

from jaxmodels.layers.timestep import TimestepEmbedding, timestep_features

TIMES = np.array([0.0, 0.25, 1.0, 37.5, 500.0, 999.0], np.float32)


@pytest.mark.parametrize("freq_shift", [0.0, 1.0])
def test_features_are_those_of_diffusers(freq_shift):
    theirs = get_timestep_embedding(
        torch.tensor(TIMES), 256, flip_sin_to_cos=True, downscale_freq_shift=freq_shift
    )
    ours = timestep_features(jnp.asarray(TIMES), 256, freq_shift=freq_shift)
    difference = np.abs(ours - theirs.numpy())
    # torch rounds one or two of the 128 frequencies to a neighbour: times 999, 6e-5 in cosine and sine.
    assert difference.max() < 999 * 2**-24 + 1e-6
    assert np.count_nonzero(difference.max(0) > 1e-6) <= 4


def test_the_shift_of_frequencies_is_another_function():
    at_500 = [timestep_features(jnp.asarray([500.0]), 256, freq_shift=shift) for shift in (0.0, 1.0)]
    assert np.abs(at_500[0] - at_500[1]).max() == pytest.approx(1.24, abs=0.01)


def test_embedding_is_that_of_diffusers_and_takes_times_of_tokens():
    theirs = randomised(TheirEmbedding(256, 12))
    weights = weights_of(theirs)
    params = {
        f"{kind[0]}_{place}": jnp.asarray(weights[f"linear_{i}.{kind}"])
        for i, place in ((1, "in"), (2, "out"))
        for kind in ("weight", "bias")
    }
    layer = TimestepEmbedding(d_model=12)
    features = get_timestep_embedding(torch.tensor(TIMES), 256, flip_sin_to_cos=True, downscale_freq_shift=0)
    ours = layer(params, jnp.asarray(TIMES))
    assert_close(ours, theirs(features))
    by_token = layer(params, jnp.asarray(TIMES).reshape(2, 3))
    np.testing.assert_allclose(by_token.reshape(6, 12), ours, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"), [({"features": 7}, "got 7"), ({"freq_shift": 128.0}, "128, got 128")]
)
def test_features_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TimestepEmbedding(d_model=4, **fields)
