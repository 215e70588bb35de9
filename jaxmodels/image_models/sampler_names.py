"""The names of samplers: from one of them, as command lines give it, to a sampler for a model."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from jaxmodels.checks import shown
from jaxmodels.decoding.diffusion.samplers import (
    DDIM,
    DDPM,
    DPMPP,
    LCM,
    TCD,
    Betas,
    Euler,
    FlowEuler,
    FlowHeun,
    FlowMapEuler,
    FlowSchedule,
    Heun,
    Sampler,
    Spacing,
    UniPC,
)

# What one sampler takes over from another of the same model, where both have it: what is said of the noise
# that the model knows, of what it predicts, and of what that is held to. Which training steps a run visits is
# up to the sampler.
_SHARED = ("noise", "prediction", "bound")


@dataclass(frozen=True)
class Named:
    """The samplers of one name.

    Attributes:
        of_betas: for models whose noise is added in training steps.
        of_flow: for models of straight paths from noise to data; None where there is none.
    """

    of_betas: type
    of_flow: type | None = None


SAMPLERS: Mapping[str, Named] = {
    "ddim": Named(DDIM),
    "ddpm": Named(DDPM),
    "dpm++": Named(DPMPP, DPMPP),
    "euler": Named(Euler, FlowEuler),
    "heun": Named(Heun, FlowHeun),
    "lcm": Named(LCM),
    "tcd": Named(TCD),
    "unipc": Named(UniPC, UniPC),
}


def named_sampler(name: str, like: Sampler) -> Sampler:
    """The sampler of a name for the model that `like` is a sampler of, on the same noise schedule.

    Raises:
        ValueError: there is none of this name, or none for such models.
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler {shown(name)} is not known; the samplers are: {', '.join(SAMPLERS)}")
    named, flow = SAMPLERS[name], flow_schedule(like)
    kind = named.of_betas if flow is None else named.of_flow
    knows_betas = isinstance(_of(like, "noise"), Betas)
    if kind is None or isinstance(like, FlowMapEuler) or (flow is None and not knows_betas):
        raise ValueError(
            f"sampler {name!r} is not for this model, which is sampled by {type(like).__name__} on a noise "
            "schedule of another kind"
        )
    own = {field.name for field in fields(kind)}
    given: dict[str, Any] = {
        field: getattr(like, field) for field in _SHARED if field in own and hasattr(like, field)
    }
    if _of(like, "spacing") is Spacing.TRAILING and "spacing" in own:
        given["spacing"] = Spacing.TRAILING  # for models that must begin with pure noise
    if flow is not None:
        given["schedule" if "schedule" in own else "flow"] = flow
    sampler: Sampler = kind(**given)
    return sampler


def flow_schedule(sampler: Sampler) -> FlowSchedule | None:
    """The noise levels of a sampler of straight paths; None of others."""
    for name in ("schedule", "flow"):
        if isinstance(found := _of(sampler, name), FlowSchedule):
            return found
    return None


def _of(sampler: Sampler, name: str) -> Any:
    return getattr(sampler, name, None)
