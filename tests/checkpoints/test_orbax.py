"""Parameters in Orbax's form."""

import jax
import pytest
from model_helpers import attention, decoder, random_params

from jaxmodels.checkpoints import orbax
from jaxmodels.checkpoints.errors import CheckpointError


def test_projections_stored_inputs_first_are_refused_with_advice(tmp_path):
    config = decoder(attention())
    params = random_params(config.spec())
    params["blocks"] = jax.tree.map(lambda leaf: leaf.T, params["blocks"])
    orbax.save_params(params, tmp_path)
    with pytest.raises(CheckpointError, match=r"stored \[out, in\].*convert the model again"):
        orbax.load_params(config, tmp_path, "float32")
