"""Which classes are named as our own: those that `diffusers` does not have."""

import diffusers
import pytest

from jaxmodels.models.autoencoders.families import AUTOENCODERS
from jaxmodels.models.denoisers.families import DENOISERS
from jaxmodels.models.flows.families import FLOWS
from jaxmodels.models.next_scale.families import NEXT_SCALE_MODELS
from jaxmodels.models.token_images.families import TOKEN_IMAGE_MODELS

REGISTRIES = (AUTOENCODERS, DENOISERS, FLOWS, NEXT_SCALE_MODELS, TOKEN_IMAGE_MODELS)


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_own_classes_are_those_that_diffusers_lacks(registry):
    assert {name for name in registry if registry.is_own(name)} == set(registry) - set(dir(diffusers))
