"""The kinds of component that pipelines have: how each is read from its folder and written to it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.huggingface import Progress
from jaxmodels.checkpoints.registered import Holds, load_registered, read_registered, save_registered
from jaxmodels.checkpoints.schedulers import load_scheduler, save_scheduler, scheduler_class
from jaxmodels.checkpoints.special_tokens import CONFIG_FILE as TOKENIZER_CONFIG_FILE
from jaxmodels.checkpoints.text_encoders import (
    load_text_encoder,
    read_text_encoder,
    save_text_encoder,
)
from jaxmodels.checkpoints.tokenizer import Tokenizer, why_no_tokenizer
from jaxmodels.decoding.diffusion.caches.calibration_file import read_calibrations, write_calibrations
from jaxmodels.layers.spec import Params
from jaxmodels.models.autoencoders.families import AUTOENCODERS
from jaxmodels.models.class_registry import ClassRegistry
from jaxmodels.models.denoisers.families import DENOISERS
from jaxmodels.models.flows.families import FLOWS
from jaxmodels.models.next_scale.families import NEXT_SCALE_MODELS
from jaxmodels.models.text_encoders.decoder_encoder import DecoderEncoder


@dataclass(frozen=True)
class Part:
    """A model of a component and its parameters."""

    config: Any
    params: Params = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How components are read.

    Attributes:
        dtype: of the parameters; None for what they would have by default.
        progress: see `jaxmodels.load`.
        allow_pickle: see `jaxmodels.load`; of text encoders and language models, which are published so.
        load: reads a directory of a language model.
        holding: on which devices, and in how many bits, the model that draws is held; None for arrays on one.
            Text encoders and autoencoders always are such.
    """

    dtype: np.dtype | None
    progress: Progress | None
    allow_pickle: bool
    load: Callable[[Path], Any]
    holding: Holds | None = None


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How components are written.

    Attributes:
        max_shard_bytes: size above which another file of parameters begins; None for the default.
        progress: see `jaxmodels.save`.
        save: writes a language model to a directory.
    """

    max_shard_bytes: int | None
    progress: Progress | None
    save: Callable[[Any, Path], None]


@dataclass(frozen=True, kw_only=True)
class Component:
    """One kind of component.

    Attributes:
        read: what a folder holds.
        outline: the same without parameters: their files are not read.
        write: to a folder, which need not exist.
        name: the library and the class under which the index names it.
        draws: whether it is what a pipeline draws with, which is held as `Reading.holding` says.
    """

    read: Callable[[Path, Reading], Any]
    outline: Callable[[Path], Any]
    write: Callable[[Any, Path, Writing], None]
    name: Callable[[Any], tuple[str, str]]
    draws: bool = False


def _drawing(registry: ClassRegistry[Any]) -> Component:
    """What a pipeline draws with: a model of a class that a registry knows, held as is asked for."""

    def read(folder: Path, reading: Reading) -> Part:
        return Part(*load_registered(registry, folder, reading.dtype, reading.progress, reading.holding))

    return replace(_registered(registry), read=read, draws=True)


def _registered(registry: ClassRegistry[Any]) -> Component:
    """A model of a class that a registry knows, as a `Part`."""

    def read(folder: Path, reading: Reading) -> Part:
        return Part(*load_registered(registry, folder, reading.dtype, reading.progress))

    def outline(folder: Path) -> Part:
        return Part(read_registered(registry, folder), {})

    def write(part: Part, folder: Path, writing: Writing) -> None:
        save_registered(registry, part.config, part.params, folder, writing.max_shard_bytes, writing.progress)

    def name(part: Part) -> tuple[str, str]:
        family = part.config.family
        return "jaxmodels" if registry.is_own(family) else "diffusers", family

    return Component(read=read, outline=outline, write=write, name=name)


def _read_text_encoder(folder: Path, reading: Reading) -> Part:
    pickles, progress = reading.allow_pickle, reading.progress
    return Part(*load_text_encoder(folder, reading.dtype, allow_pickle=pickles, progress=progress))


def _write_text_encoder(part: Part, folder: Path, writing: Writing) -> None:
    size, progress = writing.max_shard_bytes, writing.progress
    save_text_encoder(part.config, part.params, folder, max_shard_bytes=size, progress=progress)


def _text_encoder_name(part: Part) -> tuple[str, str]:
    config = part.config
    return "transformers", config.architecture if isinstance(config, DecoderEncoder) else config.family


def _outline_text_encoder(folder: Path) -> Part:
    return Part(read_text_encoder(folder), {})


def _write_calibrations(calibrations: Any, file: Path, writing: Writing) -> None:
    write_calibrations(file.parent, calibrations)


def _read_tokenizer(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.load(folder)
    if tokenizer is None:
        raise CheckpointError(why_no_tokenizer(folder))
    return tokenizer


def _write_tokenizer(tokenizer: Tokenizer, folder: Path, writing: Writing) -> None:
    folder.mkdir()
    tokenizer.save(folder)


def _tokenizer_name(tokenizer: Tokenizer) -> tuple[str, str]:
    values = json.loads(tokenizer.files.get(TOKENIZER_CONFIG_FILE, "{}"))
    return "transformers", values.get("tokenizer_class") or "PreTrainedTokenizerFast"


DENOISER = _drawing(DENOISERS)
AUTOENCODER = _registered(AUTOENCODERS)
FLOW = _drawing(FLOWS)
NEXT_SCALE = _drawing(NEXT_SCALE_MODELS)
# As the sampler that does the same.
SCHEDULER = Component(
    read=lambda folder, reading: load_scheduler(folder),
    outline=load_scheduler,
    write=lambda sampler, folder, writing: save_scheduler(sampler, folder),
    name=scheduler_class,
)
# What caches of a model go by: the file beside it, not a folder.
CALIBRATIONS = Component(
    read=lambda file, reading: read_calibrations(file.parent),
    outline=lambda file: read_calibrations(file.parent),
    write=_write_calibrations,
    name=lambda calibrations: ("jaxmodels", "Calibrations"),
)
# What makes vectors of texts, as a `Part`.
TEXT_ENCODER = Component(
    read=_read_text_encoder,
    outline=_outline_text_encoder,
    write=_write_text_encoder,
    name=_text_encoder_name,
)
TOKENIZER = Component(
    read=lambda folder, reading: _read_tokenizer(folder),
    outline=_read_tokenizer,
    write=_write_tokenizer,
    name=_tokenizer_name,
)
