"""What `jaxmodels tpu plan` does with pipelines of images and with single denoisers."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxmodels.cli.summaries import scaled
from jaxmodels.cli.tpu_report import (
    gib,
    mesh_line,
    roofline_values,
    seconds,
    slice_line,
    slice_values,
    traffic,
)

if TYPE_CHECKING:
    from jaxmodels.tpu_configs.denoisers import DenoiserWorkload
    from jaxmodels.tpu_configs.plan.denoising import CostedDenoiser, DenoiserPlan


@dataclass(frozen=True, kw_only=True)
class ImageRun:
    """A denoiser, and what its pipeline calls it with.

    Attributes:
        config: the denoiser.
        side: height and width of the latents.
        steps: of the sampler.
        canvases: of each call, for an image.
    """

    config: Any
    side: int
    steps: int
    canvases: int

    def workload(
        self, *, batch: int, side: int | None, text: int | None, steps: int | None, dtype: str
    ) -> "DenoiserWorkload":
        """The shapes that are planned for: of what is not given, the pipeline's."""
        from jaxmodels.tpu_configs.denoisers import DenoiserWorkload

        return DenoiserWorkload(
            batch=batch,
            side=side or self.side,
            text=text or DenoiserWorkload.text,
            steps=steps or self.steps,
            canvases=self.canvases,
            dtype=dtype,
        )


def image_run(name: str, revision: str | None) -> tuple[ImageRun, Path] | None:
    """The denoiser of a pipeline or a directory and where it is; None of another kind of model.

    Raises:
        CheckpointError: a component is missing, or of a class that is not known.
        ValueError: a pipeline without a denoiser.
    """
    from jaxmodels.checkpoints.components import DENOISER
    from jaxmodels.checkpoints.files import expanded
    from jaxmodels.checkpoints.pipeline_index import is_pipeline
    from jaxmodels.checkpoints.pipelines import outline_pipeline
    from jaxmodels.cli.inspect_images import image_directory
    from jaxmodels.image_models.diffusion import DiffusionModel
    from jaxmodels.image_models.pipelines import PIPELINES
    from jaxmodels.tpu_configs.denoisers import DenoiserWorkload

    file = expanded(name)
    directory = image_directory(str(file.parent) if file.is_file() else name, revision)
    if directory is None:
        return None
    if not is_pipeline(directory):
        config = DENOISER.outline(directory).config
        usual = DenoiserWorkload()
        return ImageRun(
            config=config, side=config.sample_size, steps=usual.steps, canvases=usual.canvases
        ), directory
    model, _ = outline_pipeline(PIPELINES, directory)
    if not isinstance(model, DiffusionModel):
        raise ValueError(f"{directory} is a {model.pipeline}, which has no denoiser; plans are of those")
    habits = model.habits
    guided = habits.guidance != 1 and not habits.tells_strength
    return ImageRun(
        config=model.denoiser, side=model.canvas, steps=habits.steps, canvases=2 if guided else 1
    ), directory


def denoiser_values(plan: "DenoiserPlan") -> dict[str, Any]:
    """A plan as JSON values: bytes, operations and seconds, of one device where it is not said otherwise."""
    memory = plan.memory
    return {
        "slice": slice_values(plan.slice),
        "mesh": dict(plan.mesh),
        "workload": asdict(plan.workload),
        "memory": {**asdict(memory), "total": memory.total},
        "fits": memory.fits,
        "missing": memory.missing,
        "advice": list(plan.advice),
        "step": roofline_values(plan.step),
        "seconds": plan.seconds,
        "images_per_second": plan.throughput,
    }


def denoiser_lines(plan: "DenoiserPlan", config: "CostedDenoiser") -> list[tuple[str, str]]:
    """The lines of one plan: what is said, of what."""
    from jaxmodels.tpu_configs.plan.denoising import tokens_of_text

    memory, work = plan.memory, plan.workload
    side, _, channels = work.canvas(config)
    text = tokens_of_text(config, work)
    told = f", texts of {text} tokens" if text else ""
    left = memory.usable - memory.total
    verdict = f"fits, {gib(left)} left" if memory.fits else f"does not fit: {gib(-left)} too much"
    return [
        ("slice", slice_line(plan.slice)),
        ("mesh", mesh_line(plan.mesh)),
        (
            "workload",
            f"{work.batch} x latents of {side} x {side} x {channels}{told}, {work.steps} steps of "
            f"{work.canvases} for each image, {work.dtype}",
        ),
        ("memory per device", f"{gib(memory.total)} of {gib(memory.usable)}: {verdict}"),
        ("", f"parameters {gib(memory.parameters)} of the denoiser alone"),
        ("", f"estimated: working memory {gib(memory.run.working)}, program {gib(memory.run.code)}"),
        *(("change", advice) for advice in plan.advice),
        ("each step", f"at least {seconds(plan.step.seconds)}, bound by {plan.step.bound}"),
        ("", traffic(plan.step)),
        ("all steps", f"at least {seconds(plan.seconds)}"),
        ("throughput", f"at most {scaled(plan.throughput, 'image/s')}"),
    ]
