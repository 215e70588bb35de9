"""Flux (https://github.com/black-forest-labs/flux): told the strength of guidance if it was distilled."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxmodels.decoding.diffusion.samplers import FlowEuler, FlowLevels, Sampler
from jaxmodels.image_models.conditions import Conditions, GivenTexts
from jaxmodels.image_models.diffusion import Habits
from jaxmodels.image_models.pipelines.diffusion import diffusion_pipeline, prompt_encoders
from jaxmodels.image_models.prompts.flux import FluxPrompts
from jaxmodels.image_models.prompts.prompts import Prompts


def conditions(denoiser: Any, texts: Mapping[str, Any]) -> Conditions:
    told = denoiser.conditioner.guided
    encoders = prompt_encoders(texts, (1, 2))
    if encoders is None:
        return GivenTexts(tells_strength=told)
    return Prompts(reader=FluxPrompts(clip=encoders[0], t5=encoders[1]), tells_strength=told)


def habits(denoiser: Any) -> Habits:
    """The denoiser's times are sigmas. One that is not told a strength needs no guidance."""
    told = denoiser.conditioner.guided
    return Habits(steps=28, guidance=3.5 if told else 1.0, tells_strength=told, time_scale=1e-3)


def with_levels(sampler: Sampler, levels: FlowLevels) -> Sampler:
    """The sampler, whose levels of noise the pipeline hands over to its scheduler: even ones.

    Raises:
        ValueError: it is another than Euler's method for flow matching.
    """
    if not isinstance(sampler, FlowEuler):
        raise ValueError(
            f"scheduler: a FluxPipeline takes a FlowMatchEulerDiscreteScheduler, got one of the sampler "
            f"{type(sampler).__name__}"
        )
    return replace(sampler, schedule=replace(sampler.schedule, levels=levels))


PIPELINE = diffusion_pipeline(
    "FluxPipeline",
    conditions=conditions,
    habits=habits,
    encoders=2,
    # What reads images in place of prompts.
    unused=frozenset({"image_encoder", "feature_extractor"}),
    as_run=lambda sampler: with_levels(sampler, FlowLevels.EVEN),
    as_stored=lambda sampler: with_levels(sampler, FlowLevels.TRAINED),
)
