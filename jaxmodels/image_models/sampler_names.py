"""The names of samplers: from one of them, as command lines give it, to a sampler for a model."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from jaxmodels.checks import shown
from jaxmodels.decoding.diffusion.samplers import DDIM, Euler, Sampler

# What one sampler takes over from another of the same model, where both have it: what is said of the noise
# that the model knows, and of what it predicts.
_SHARED = ("noise", "prediction", "spacing", "offset", "grid", "bound")


@dataclass(frozen=True)
class Named:
    """The samplers of one name.

    Attributes:
        of_betas: for models whose noise is added in training steps; None where there is none.
        of_flow: for models of straight paths from noise to data; None where there is none.
    """

    of_betas: Any = None
    of_flow: Any = None


SAMPLERS: Mapping[str, Named] = {
    "ddim": Named(DDIM),
    "euler": Named(Euler),
}


def named_sampler(name: str, like: Sampler) -> Sampler:
    """The sampler of a name for the model that `like` is a sampler of.

    Raises:
        ValueError: there is none of this name, or none for such models.
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler {shown(name)} is not known; the samplers are: {', '.join(SAMPLERS)}")
    kind = SAMPLERS[name].of_betas
    own = {field.name for field in fields(kind)}
    given = {field: getattr(like, field) for field in _SHARED if field in own and hasattr(like, field)}
    sampler: Sampler = kind(**given)
    return sampler
