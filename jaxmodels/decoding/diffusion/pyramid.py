"""A run through the stages of a pyramid: one program for each resolution."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Array, Float

from jaxmodels.checks import whole
from jaxmodels.decoding.diffusion.driver import Asked, Denoise, Run
from jaxmodels.decoding.diffusion.guidance.guidance import Guidance
from jaxmodels.decoding.diffusion.noise import Injected
from jaxmodels.decoding.diffusion.samplers.pyramid_stage import PyramidSchedule, PyramidStage
from jaxmodels.layers.spec import Params
from jaxmodels.models.denoisers.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True)
class Pyramid:
    """From noise at the smallest resolution to latents at the largest, which is twice as large at each stage.

    Attributes:
        steps: steps of each stage.
        schedule: the stages.
        guidance: see `Denoise`.

    Raises:
        ValueError: other than one number of steps for each stage.
    """

    steps: tuple[int, ...]
    schedule: PyramidSchedule = field(default_factory=PyramidSchedule)
    guidance: Guidance | None = None

    def __post_init__(self) -> None:
        if len(self.steps) != self.schedule.stages:
            raise ValueError(
                f"steps must have a number for each of the {self.schedule.stages} stages, got {self.steps}"
            )
        for steps in self.steps:
            whole("steps of a stage", steps, low=1)

    def run(
        self,
        denoiser: Denoiser,
        params: Params,
        noises: Sequence[Float[Array, "B H W C"]],
        condition: Any,
        unconditional: Any = None,
    ) -> list[Run]:
        """What each stage gave; the last one's latents are the result.

        Args:
            denoiser: a model of canvases of all these sizes.
            params: its parameters.
            noises: unit noise in the shape of each stage's canvases: the first begins the run, the others
                take part in the jumps.
            condition: of each image.
            unconditional: see `Asked`.

        Raises:
            ValueError: noise of another shape, or what `Denoise.run` raises.
        """
        if len(noises) != self.schedule.stages:
            raise ValueError(f"noises must be {self.schedule.stages} arrays, one a stage, got {len(noises)}")
        runs: list[Run] = []
        for stage, (steps, noise) in enumerate(zip(self.steps, noises, strict=True)):
            start = noise if stage == 0 else self.schedule.jump(runs[-1].latents, stage, noise)
            sampler = PyramidStage(schedule=self.schedule, stage=stage)
            policy = Denoise(sampler=sampler, steps=steps, guidance=self.guidance)
            runs.append(policy.run(denoiser, params, Asked(Injected(start), condition, unconditional)))
        return runs
