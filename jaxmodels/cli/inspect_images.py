"""What `jaxmodels inspect` shows of pipelines of image models and of single denoisers."""

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxmodels.cli.summaries import letter, scaled, summarise

if TYPE_CHECKING:
    from jaxmodels.layers.spec import ParamTree


def image_directory(name: str, revision: str | None) -> Path | None:
    """The directory of a pipeline or of a denoiser; None where `name` is another kind of model, or none. Of a
    Hugging Face id all but the weights is fetched.

    Raises:
        CheckpointError: its index or configuration is no JSON object, or cannot be fetched.
    """
    from jaxmodels.checkpoints.files import expanded, read_json_object
    from jaxmodels.checkpoints.hub import fetch_outline, is_hub_id, list_bundled, resolve
    from jaxmodels.checkpoints.huggingface import CONFIG_FILE
    from jaxmodels.checkpoints.pipeline_index import is_pipeline
    from jaxmodels.models.denoisers.families import DENOISERS

    if is_hub_id(name):
        directory = fetch_outline(name, revision)
    elif expanded(name).is_dir() or name in list_bundled():
        directory = resolve(name, revision)
    else:
        return None
    if is_pipeline(directory):
        return directory
    config = directory / CONFIG_FILE
    is_denoiser = config.is_file() and read_json_object(config).get("_class_name") in DENOISERS
    return directory if is_denoiser else None


def describe_images(directory: Path, context: int) -> dict[str, Any]:
    """The report as JSON values. context: tokens of a text that FLOPs are given for.

    Raises:
        CheckpointError: a component is missing, or of a class that is not known.
    """
    from jaxmodels.checkpoints.components import DENOISER
    from jaxmodels.checkpoints.pipeline_index import INDEX_FILE, is_pipeline
    from jaxmodels.checkpoints.pipelines import outline_pipeline
    from jaxmodels.image_models.diffusion import DiffusionModel
    from jaxmodels.image_models.pipelines import PIPELINES

    if not is_pipeline(directory):
        denoiser = DENOISER.outline(directory).config
        return {
            "config": str(directory),
            "denoiser": describe_denoiser(denoiser, denoiser.sample_size, context),
        }
    model, parts = outline_pipeline(PIPELINES, directory)
    kinds = {**PIPELINES[model.pipeline].components, **PIPELINES[model.pipeline].beside}
    report: dict[str, Any] = {
        "config": str(directory / INDEX_FILE),
        "pipeline": model.pipeline,
        "size": model.size,
        "components": {
            folder: {"class": kinds[folder].name(part)[1], "parameters": parameters_of(part)}
            for folder, part in parts.components.items()
            if part is not None
        },
    }
    if isinstance(model, DiffusionModel):
        habits = model.habits
        report["denoiser"] = describe_denoiser(model.denoiser, model.canvas, context)
        report["sampler"] = summarise(model.sampler)
        report["run"] = {"steps": habits.steps, "guidance": habits.guidance}
    return report


def describe_denoiser(denoiser: Any, side: int, context: int) -> dict[str, Any]:
    """What a denoiser is, and what one call costs for a square canvas and a text of `context` tokens."""
    from jaxmodels.models.denoisers.text import Text

    blocks = tuple(denoiser.named_blocks().values())
    kinds = list(dict.fromkeys(blocks))
    ends = denoiser.projections
    reads_text = isinstance(denoiser.abstract_condition(1, 1), Text)
    return {
        "family": denoiser.family,
        "d_model": ends.d_model,
        "canvas": {"side": side, "channels": ends.in_channels, "patch": ends.patch},
        "tokens": (side // ends.patch) ** 2,
        "pattern": [
            {"block": letter(kinds.index(block)), "times": len(list(run))}
            for block, run in itertools.groupby(blocks)
        ],
        "blocks": {letter(i): summarise(block) for i, block in enumerate(kinds)},
        "parameters": _count(denoiser.spec()),
        "flops": {
            "context": context if reads_text else None,
            "per_call": denoiser.flops(side, side, context),
        },
    }


def parameters_of(part: Any) -> int | None:
    """How many a component has; None of one without any."""
    config = getattr(part, "config", None)
    return None if config is None else _count(config.spec())


def _count(spec: "ParamTree") -> int:
    from jaxmodels.layers.spec import walk

    return sum(math.prod(param.shape) for _, param in walk(spec))


def image_lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The report as lines of a name and a text."""
    lines = []
    if "pipeline" in report:
        lines += [("pipeline", report["pipeline"]), ("images", f"{report['size']} x {report['size']} pixels")]
        for folder, part in report["components"].items():
            count = part["parameters"]
            lines.append(
                (f"  {folder}", part["class"] + ("" if count is None else f", {count:,} parameters"))
            )
    if "denoiser" in report:
        lines += _denoiser_lines(report["denoiser"])
    if "sampler" in report:
        run = report["run"]
        lines += [
            ("sampler", report["sampler"]),
            ("run", f"{run['steps']} steps, guidance {run['guidance']:g}"),
        ]
    return lines


def _denoiser_lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    canvas, flops = report["canvas"], report["flops"]
    pattern = " ".join(f"{run['times']}{run['block']}" for run in report["pattern"])
    text = "" if flops["context"] is None else f" and a text of {flops['context']} tokens"
    return [
        ("denoiser", str(report["family"])),
        ("shape", f"d_model {report['d_model']}, patches of {canvas['patch']} x {canvas['patch']}"),
        ("blocks", pattern),
        *((f"  {name}", block) for name, block in report["blocks"].items()),
        ("parameters", f"{report['parameters']:,}"),
        (
            "call",
            f"{scaled(flops['per_call'], 'FLOP')} for a canvas of {canvas['side']} x {canvas['side']} x "
            f"{canvas['channels']}, {report['tokens']} tokens{text}",
        ),
    ]
