"""What the pipelines of diffusion models share: denoiser, autoencoder, scheduler, encoders of texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxmodels.checkpoints.components import (
    AUTOENCODER,
    CALIBRATIONS,
    DENOISER,
    SCHEDULER,
    TEXT_ENCODER,
    TOKENIZER,
    Component,
    Part,
)
from jaxmodels.checkpoints.pipeline_index import INDEX_FILE
from jaxmodels.checkpoints.pipelines import Parts, Pipeline
from jaxmodels.checks import number, shown, whole
from jaxmodels.decoding.diffusion.caches.calibration_file import FILE
from jaxmodels.decoding.diffusion.samplers import Sampler
from jaxmodels.image_models.conditions import Conditions
from jaxmodels.image_models.diffusion import DiffusionModel, Habits
from jaxmodels.image_models.exit_file import EXIT_HEADS, heads_of
from jaxmodels.image_models.exit_file import FILE as EXIT_FILE
from jaxmodels.image_models.prompts.encoder import PromptEncoder
from jaxmodels.layers.spec import walk

# Keys of the index that are ours, of models that want something else than their pipeline's: the size of
# canvases where the denoiser's configuration does not say it; the scale of guidance where none is asked for,
# and which channels and times it guides, null for all.
SIZE, SCALE, CHANNELS, TIMES = "sample_size", "guidance_scale", "guided_channels", "guided_times"


def diffusion_pipeline(
    name: str,
    *,
    conditions: Callable[[Any, Mapping[str, Any]], Conditions],
    habits: Callable[[Any], Habits],
    encoders: int = 0,
    unused: frozenset[str] = frozenset(),
    as_run: Callable[[Sampler], Sampler] = lambda sampler: sampler,
    as_stored: Callable[[Sampler], Sampler] = lambda sampler: sampler,
) -> Pipeline:
    """The entry of a pipeline of `diffusers`. Without autoencoder, which `diffusers` does not have, canvases
    are pixels.

    Args:
        name: its class.
        conditions: made of the denoiser and what the folders of text encoders and tokenizers hold.
        habits: of a denoiser.
        encoders: how many text encoders there are, each with a tokenizer; all may be left out.
        unused: see `Pipeline`.
        as_run: what a pipeline changes of its scheduler's sampler, of which no file tells.
        as_stored: the same backwards.
    """
    texts = {
        name + suffix(number): kind
        for number in range(1, encoders + 1)
        for name, kind in (("text_encoder", TEXT_ENCODER), ("tokenizer", TOKENIZER))
    }

    def build(parts: Parts) -> DiffusionModel:
        found = parts.components
        denoiser: Part = found["transformer"]
        autoencoder: Part = found["vae"] or Part(None, {})
        side = parts.notes.get(SIZE, denoiser.config.sample_size)
        heads = found.get(EXIT_FILE)
        held = {folder: found[folder] for folder in texts}
        return DiffusionModel(
            pipeline=name,
            denoiser=denoiser.config,
            params=denoiser.params,
            autoencoder=autoencoder.config,
            autoencoder_params=autoencoder.params,
            conditions=conditions(denoiser.config, held),
            sampler=as_run(found["scheduler"]),
            habits=_as_noted(habits(denoiser.config), parts.notes, denoiser.config.projections.in_channels),
            canvas=whole(f"{INDEX_FILE}: key {SIZE!r}", side, low=1),
            calibrations=found.get(FILE) or {},
            exits=heads_of(heads, denoiser.config) if heads else {},
            encoders=held,
            notes=parts.notes,
        )

    def take_apart(model: DiffusionModel) -> Parts:
        autoencoder = model.autoencoder
        components = {
            "transformer": Part(model.denoiser, model.params),
            "vae": None if autoencoder is None else Part(autoencoder, model.autoencoder_params),
            "scheduler": as_stored(model.sampler),
            FILE: model.calibrations or None,
            EXIT_FILE: dict(walk(model.exits)) or None,
            **{folder: model.encoders.get(folder) for folder in texts},
        }
        usual = {SIZE: model.denoiser.sample_size, **_noted(habits(model.denoiser))}
        own = {SIZE: model.canvas, **_noted(model.habits)}
        stated = {key: own[key] for key in own if key in model.notes or own[key] != usual[key]}
        return Parts(components=components, notes={**model.notes, **stated})

    networks: Mapping[str, Component] = {
        "transformer": DENOISER,
        "vae": AUTOENCODER,
        "scheduler": SCHEDULER,
    }
    return Pipeline(
        name=name,
        components={**networks, **texts},
        optional=frozenset({"vae", *texts}),
        beside={FILE: CALIBRATIONS, EXIT_FILE: EXIT_HEADS},
        unused=unused,
        build=build,
        take_apart=take_apart,
    )


def prompt_encoder(texts: Mapping[str, Any], number: int = 1) -> PromptEncoder | None:
    """The text encoder of a number, from 1 on, with its tokenizer; None where it is left out.

    Raises:
        ValueError: the encoder is there and its tokenizer is not.
    """
    names = [name + suffix(number) for name in ("text_encoder", "tokenizer")]
    encoder, tokenizer = (texts[name] for name in names)
    if encoder is None:
        return None
    if tokenizer is None:
        raise ValueError(f"{INDEX_FILE}: {names[1]!r} is left out, and {names[0]!r} needs it")
    return PromptEncoder(config=encoder.config, params=encoder.params, tokenizer=tokenizer)


def prompt_encoders(texts: Mapping[str, Any], numbers: Sequence[int]) -> tuple[PromptEncoder, ...] | None:
    """The text encoders of these numbers with their tokenizers; None where all are left out.

    Raises:
        ValueError: some are there and others are not; see also `prompt_encoder`.
    """
    found = {f"text_encoder{suffix(number)}": prompt_encoder(texts, number) for number in numbers}
    there = [name for name, encoder in found.items() if encoder is not None]
    missing = [name for name, encoder in found.items() if encoder is None]
    if there and missing:
        raise ValueError(
            f"{INDEX_FILE}: {missing[0]!r} is left out, and prompts are read by it beside {there[0]!r}; "
            "leave out all, and give encoded texts, or none"
        )
    return tuple(encoder for encoder in found.values() if encoder is not None) or None


def _noted(habits: Habits) -> dict[str, Any]:
    """What the index can say of the habits."""
    times = habits.guided_times
    return {
        SCALE: habits.guidance,
        CHANNELS: habits.guided_channels,
        TIMES: None if times is None else list(times),
    }


def _as_noted(habits: Habits, notes: Mapping[str, Any], channels: int) -> Habits:
    """The habits with what the index says of them. channels: of a canvas."""
    given = {**_noted(habits), **notes}
    scale = number(f"{INDEX_FILE}: key {SCALE!r}", given[SCALE])
    guided, times = given[CHANNELS], given[TIMES]
    if guided is not None:
        guided = whole(f"{INDEX_FILE}: key {CHANNELS!r}", guided, low=1, high=channels)
    if times is not None:
        if not isinstance(times, list) or len(times) != 2:
            raise ValueError(f"{INDEX_FILE}: key {TIMES!r} must be null or two times, got {shown(times)}")
        start = number(f"{INDEX_FILE}: key {TIMES!r}", times[0], low=0.0)
        times = start, number(f"{INDEX_FILE}: key {TIMES!r}", times[1], low=start)
    return replace(habits, guidance=scale, guided_channels=guided, guided_times=times)


def suffix(number: int) -> str:
    """What the names of a pipeline's folders end in: nothing for the first of a kind, then _2."""
    return "" if number == 1 else f"_{number}"
