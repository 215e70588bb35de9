"""`load`, `save` and `init`: models from and to checkpoint directories."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from jaxmodels.checkpoints import extra, gguf, huggingface, orbax
from jaxmodels.checkpoints.adapters import Adapter, merged, read_adapter
from jaxmodels.checkpoints.arguments import (
    check_boolean,
    check_optional_text,
    check_path,
    check_progress,
    default_dtype,
    floating_dtype,
)
from jaxmodels.checkpoints.atomic import replace_directory
from jaxmodels.checkpoints.consistent import read_consistently
from jaxmodels.checkpoints.errors import CheckpointError, told_of
from jaxmodels.checkpoints.generation_config import GenerationDefaults
from jaxmodels.checkpoints.hub import resolve
from jaxmodels.checkpoints.manifest import Verification, open_verification, write_manifest
from jaxmodels.checkpoints.pipeline_index import is_pipeline
from jaxmodels.checkpoints.placement import Placed, check_layers, place
from jaxmodels.checkpoints.quantized import KEY as QUANTIZATION_KEY
from jaxmodels.checkpoints.quantized.writing import settings
from jaxmodels.checkpoints.ranges import check_infinities, warn_of_non_finite
from jaxmodels.checkpoints.safetensors_io import TensorReader
from jaxmodels.checkpoints.tokenizer import Tokenizer
from jaxmodels.checks import shown, whole
from jaxmodels.expert_memory import ExpertMemory, check_expert_memory, fetching
from jaxmodels.holding import Holding
from jaxmodels.image_models.images import ImageModel
from jaxmodels.layers.host_memory import refuse_host_memory
from jaxmodels.layers.memory_order import ordered_params
from jaxmodels.layers.moe.kept_experts import HostExperts
from jaxmodels.layers.quantized.quantization import Quantization, find_quantization, refuse_quantized
from jaxmodels.layers.spec import Params, check_params, init_params, walk
from jaxmodels.memory import check_fits
from jaxmodels.model import Model
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.readers.filling import MASK_TOKEN
from jaxmodels.tpu_configs.rules import DEFAULT_RULES, Rules
from jaxmodels.tpu_configs.shardings import Placement

Format = Literal["hf", "orbax"]


def load(
    name_or_path: str | Path,
    dtype: DTypeLike | None = None,
    *,
    revision: str | None = None,
    allow_pickle: bool = False,
    text_only: bool = False,
    verify: bool = True,
    adapter: str | Path | Sequence[str | Path] = (),
    progress: huggingface.Progress | None = None,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    quantize: str | Quantization | None = None,
    experts: ExpertMemory | HostExperts = "device",
) -> Any:
    """Reads a checkpoint: a directory in Hugging Face's or our Orbax form, a GGUF file, a bundled name, or a
    hub id. Gives a `Model`, or an `ImageModel` where the directory holds the parts of one.

    Args:
        name_or_path: ``"./dir"``, ``"./model.gguf"``, ``"tiny-mamba2"`` or ``"org/name"``.
        dtype: of the parameters: float32, bfloat16 or float16. By default float32 on CPU, where bfloat16 is
            slower, and the stored dtype elsewhere.
        revision: branch, tag or commit of a hub id.
        allow_pickle: read PyTorch pickles where there are no safetensors. Only for sources that you trust;
            needs the extra ``jaxmodels[torch]``.
        text_only: of a model that also sees or hears, load the language model alone.
        verify: compare the files with the checksums that `save` wrote beside them, where there are such.
        adapter: a LoRA adapter as `peft` saves it, a directory or a hub id, to merge into the weights; or
            several, merged in this order. `Model.with_adapter` keeps one apart instead.
        progress: called with the name and bytes of each parameter that has been read; Orbax reads all at
            once.
        mesh: devices to spread the model over, see `jaxmodels.tpu_configs.mesh.make_mesh`: each is given its
            slices of the parameters, and the model runs on all of them (see `Model.on_mesh`). Of image
            models what draws is spread, and text encoders and autoencoders are whole on one device; so it is
            with `quantize`.
        rules: which axes of parameters and caches are cut over which axes of the mesh; by default
            `jaxmodels.tpu_configs.rules.DEFAULT_RULES`.
        quantize: hold the weights in few bits: "int8", "int4" (in groups of up to 128 inputs),
            "int4-channel", "fp8" or "mxfp4", or a `jaxmodels.layers.quantized.quantization.Quantization`.
            Each weight is read in `dtype` and rounded to the nearest numbers before the next is read; what is
            stored in the same format already is kept as it is. Layers compute in `dtype`.
        experts: the memory that holds the weights of a mixture's experts: the "device"'s, or that of the
            "host", from where a step fetches the experts that its tokens chose, each once, and no others. For
            models of text whose experts would not fit into the memory of the device, or of those of a mesh,
            each of which has its part in the memory of its own host. A `jaxmodels.HostExperts` is the host's
            too, and says how many stay on the device, and how many are fetched ahead.

    Names may have another prefix than the family's, as those of a base model or of a part of a larger model
    have. A head that is stored and differs from the embedding is kept, with a warning, whether or not the
    configuration ties them. Tensors of modules that predict further tokens go to `Model.extra_tensors`.

    Raises:
        CheckpointError: anything missing, corrupt or not understood, or too large for the free memory; the
            message names it.
        ValueError: an argument of a wrong kind, a mesh that does not divide the model, a weight that the
            quantisation cannot hold, or experts that cannot be in host memory: with an adapter, on a mesh
            that cuts them otherwise than over "expert" and "tensor", where a layer computes with all of them
            at once, or where the backend has none; or that cannot be kept, on a mesh or where one token
            chooses more.
    """
    check_path("name_or_path", name_or_path)
    wanted = None if dtype is None else floating_dtype("dtype", dtype)
    check_optional_text("revision", revision)
    check_boolean("allow_pickle", allow_pickle)
    check_boolean("text_only", text_only)
    check_boolean("verify", verify)
    check_progress(progress)
    holding = Holding(
        placement=_placement(mesh, rules),
        quantization=find_quantization(quantize),
        experts=check_expert_memory(experts, mesh),
    )
    directory = resolve(name_or_path, revision, allow_pickle=allow_pickle)
    adapters = _names_of_adapters(adapter)
    images = is_pipeline(directory)
    if holding.experts == "host":
        _refuse_beside_host(adapters, images=images)
    if not images:
        model = _load_text(
            directory, wanted, adapters, holding, allow_pickle=allow_pickle, text_only=text_only,
            verify=verify, progress=progress,
        )  # fmt: skip
        return replace(model, config=fetching(model.config, experts))
    if adapters or text_only:
        raise ValueError(f"{directory} is an image model, which takes neither adapter nor text_only")
    # Not at the top: models of text need nothing of it, and it doubles their start.
    from jaxmodels.image_models.directories import load_images

    def load_part(folder: Path) -> Model:
        part = load(
            folder, wanted, allow_pickle=allow_pickle, verify=verify, progress=progress, mesh=mesh,
            rules=rules, quantize=quantize,
        )  # fmt: skip
        return as_language_model(part, folder)

    return load_images(
        directory, wanted, progress, allow_pickle=allow_pickle, verify=verify, load=load_part,
        holding=holding,
    )  # fmt: skip


def _load_text(
    directory: Path,
    dtype: np.dtype | None,
    adapters: Sequence[str | Path],
    holding: Holding,
    *,
    allow_pickle: bool,
    text_only: bool,
    verify: bool,
    progress: huggingface.Progress | None,
) -> Model:
    """A language model with its adapters merged, held as `holding` says. See `load` for the arguments."""

    def open_all() -> tuple[_Opened, Verification]:
        verification = open_verification(directory) if verify else Verification(())
        verification.check_small()
        if orbax.is_orbax(directory):
            with verification.checking_large():
                return _read_orbax(directory, dtype, text_only, progress, reading), Verification(())
        return _open_hf(directory, dtype, allow_pickle, text_only, progress, reading), verification

    with told_of(directory):
        merged = [read_adapter(one, allow_pickle=allow_pickle) for one in adapters]
        # Adapters are merged before weights are rounded.
        reading = replace(holding, quantization=None) if merged else holding
        gguf_file = gguf.find_gguf(directory)
        if gguf_file is not None:
            opened, verification = _open_gguf(gguf_file, dtype, progress, reading), Verification(())
        else:
            opened, verification = read_consistently(directory, open_all)
    with verification.checking_large():
        model = _adapted(opened, merged)
    model = replace(model, params=holding.params(model.decoder, model.params))
    placement = holding.placement
    return model if placement is None else model.on_mesh(placement.mesh, placement.rules)


def as_language_model(loaded: Model | ImageModel, name: str | Path) -> Model:
    """What `load` gave for `name`; raises ValueError unless it is a language model."""
    if not isinstance(loaded, Model):
        raise ValueError(f"{str(name)!r} is an image model, and a language model is needed here")
    return loaded


def save(
    model: Model | ImageModel,
    path: str | Path,
    format: Format = "hf",
    *,
    max_shard_bytes: int | None = None,
    progress: huggingface.Progress | None = None,
) -> None:
    """Writes a model as a checkpoint directory that `load` reads, and for "hf" `transformers` too.

    Weights in few bits are written as compressed-tensors, which `load` with the same `quantize` holds as they
    were; what `Model.dequantized` gives is written as any other model.

    The directory is replaced as a whole once everything is written: a save that fails or is killed leaves
    the previous checkpoint in place. Warns of parameters that are NaN or infinite.

    Args:
        model: what to write.
        path: the directory.
        format: "hf" or "orbax"; of image models "hf" alone.
        max_shard_bytes: size above which "hf" begins another file, 2 GB by default.
        progress: called with the name and bytes of each parameter; Orbax writes all at once.

    Raises:
        CheckpointError: the model has no Hugging Face form, or the directory cannot be written.
        ValueError: an argument of a wrong kind, parameters that are not those of ``model.config``, or
            `max_shard_bytes` for a format that it does not apply to.
    """
    if not isinstance(model, Model | ImageModel):
        raise ValueError(f"model must be a Model, as load and init give, got {shown(model)}")
    check_path("path", path)
    if not isinstance(format, str) or format not in ("hf", "orbax"):
        raise ValueError(f"format must be 'hf' or 'orbax', got {format!r}")
    if max_shard_bytes is not None:
        max_shard_bytes = whole("max_shard_bytes", max_shard_bytes, low=1, high=2**63)
    if format == "orbax" and max_shard_bytes is not None:
        raise ValueError(f"max_shard_bytes={max_shard_bytes}: Orbax chooses its own files; leave it out")
    check_progress(progress)
    if not isinstance(model, Model):
        if format != "hf":
            raise ValueError(f"an image model is written with format='hf', got {format!r}")
        from jaxmodels.image_models.directories import save_images

        save_part = functools.partial(save, max_shard_bytes=max_shard_bytes, progress=progress)
        save_images(model, path, max_shard_bytes, progress, save=save_part)
        return
    check_params(model.config.spec(), model.params)
    refuse_host_memory(model.params, "save")
    config, params = model.decoder, model.decoder_params
    warn_of_non_finite(params)
    dtype = str(config.dtype_of(params))
    values = huggingface.config_dict(config, {**model.metadata, "dtype": dtype})
    if format == "orbax":
        refuse_quantized(params, "format='orbax'")
    elif in_few_bits := huggingface.compressed_params(config, params):
        values |= {QUANTIZATION_KEY: settings(in_few_bits)}
    with replace_directory(path) as directory:
        huggingface.write_config(values, directory)
        model.generation.save(directory)
        if model.tokenizer is not None:
            model.tokenizer.save(directory)
        if format == "hf":
            huggingface.save_params(
                config,
                params,
                directory,
                extra=model.extra_tensors,
                max_shard_bytes=max_shard_bytes,
                progress=progress,
            )
        else:
            orbax.save_params(params, directory)
            extra.save(model.extra_tensors, directory)
            _report(params, progress)
        write_manifest(directory)


def init(
    config: Decoder,
    seed: int = 0,
    dtype: DTypeLike = jnp.float32,
    *,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
) -> Model:
    """A model with random weights; `mesh` and `rules` are those of `load`.

    Raises:
        ValueError: an argument of a wrong kind, weights that do not fit into the free memory, or a mesh that
            does not divide the model.
    """
    if not isinstance(config, Decoder):
        raise ValueError(
            f"config must be a Decoder, as config_from_hf gives for a dictionary, got {shown(config)}"
        )
    seed = whole("seed", seed)
    held = floating_dtype("dtype", dtype)
    placement = _placement(mesh, rules)
    holding = Holding(placement=placement)
    _check_fits(config, held, holding)
    spec = config.spec()
    params = init_params(spec, jax.random.key(seed), held, holding.shardings(config))
    params = ordered_params(spec, params)
    model = Model(config=config, params=params)
    return model if placement is None else model.on_mesh(placement.mesh, placement.rules)


@dataclass(frozen=True)
class _Opened:
    """A checkpoint whose files are open: all of the model but the parameters, and what reads those."""

    model: Model
    read_params: Callable[[], Params]


def _open_hf(
    directory: Path,
    wanted: np.dtype | None,
    allow_pickle: bool,
    text_only: bool,
    progress: huggingface.Progress | None,
    holding: Holding,
) -> _Opened:
    values = huggingface.read_values(directory, text_only=text_only)
    tensors = huggingface.open_weights(directory, allow_pickle=allow_pickle)
    stored = huggingface.stored_dtype(tensors)
    if holding.quantization is not None:  # decoded without rounding: what fits is held as it is stored
        tensors = huggingface.open_weights(directory, allow_pickle=allow_pickle, decoded_to="float32")
    check_layers(values, tensors, str(directory / huggingface.CONFIG_FILE))
    config, metadata = huggingface.read_config(directory, text_only=text_only)
    placed = place(config, tensors, values, text_only=text_only)
    held = wanted or default_dtype(stored)
    _check_fits(placed.config, held, holding)
    return _Opened(
        _without_params(directory, placed.config, metadata, placed.extra),
        _reader(placed, held, progress, holding),
    )


def _reader(
    placed: Placed, held: np.dtype, progress: huggingface.Progress | None, holding: Holding
) -> Callable[[], Params]:
    """What reads the parameters of a checkpoint whose tensors have their names in the family's table."""
    return functools.partial(
        huggingface.load_params,
        placed.config,
        placed.tensors,
        held,
        progress=progress,
        shardings=holding.shardings(placed.config),
        held=holding.made_of(placed.config, held),
    )


def _open_gguf(
    path: Path, wanted: np.dtype | None, progress: huggingface.Progress | None, holding: Holding
) -> _Opened:
    file = gguf.open_gguf(path)
    values, config, tensors = gguf.open_model(file)
    placed = place(config, tensors, values)
    held = wanted or default_dtype(huggingface.stored_dtype(tensors) if gguf.is_plain(file) else None)
    _check_fits(placed.config, held, holding)
    model = Model(
        config=placed.config,
        params={},
        tokenizer=gguf.load_tokenizer(file),
        generation=gguf.generation_defaults(file).within(config.vocab_size, path),
        extra_tensors=placed.extra,
    )
    return _Opened(model, _reader(placed, held, progress, holding))


def _read_orbax(
    directory: Path,
    wanted: np.dtype | None,
    text_only: bool,
    progress: huggingface.Progress | None,
    holding: Holding,
) -> _Opened:
    config, metadata = huggingface.read_config(directory, text_only=text_only)
    held = wanted or default_dtype(metadata.get("dtype"))
    _check_fits(config, held, holding)
    holding.made_of(config, held)  # refuses what it cannot hold; Orbax reads all at once
    params = orbax.load_params(config, directory, held, holding.shardings(config))
    check_infinities(params, held)
    model = _without_params(directory, config, metadata, extra.load(directory))
    return _Opened(model, functools.partial(_reported, params, progress))


def _without_params(
    directory: Path, config: Decoder, metadata: Mapping[str, Any], extra_tensors: TensorReader | None
) -> Model:
    tokenizer = Tokenizer.load(directory)
    return Model(
        config=_with_mask_of(tokenizer, config, directory),
        params={},
        tokenizer=tokenizer,
        generation=GenerationDefaults.load(directory).within(config.vocab_size, directory),
        metadata=metadata,
        extra_tensors=extra_tensors,
    )


def _with_mask_of(tokenizer: Tokenizer | None, config: Decoder, directory: Path) -> Decoder:
    """The model with the mask token that its tokenizer names, where its configuration names none.

    BERT's configurations never do, and not all of its vocabularies have the mask in the same place.
    """
    token = None if tokenizer is None else tokenizer.mask_id
    if config.filling is None or token is None or token >= config.vocab_size:
        return config
    if huggingface.read_values(directory).get(MASK_TOKEN) is not None:
        return config
    return replace(config, filling=replace(config.filling, mask_token=token))


def _adapted(opened: _Opened, adapters: Sequence[Adapter]) -> Model:
    """The model with its parameters, in which adapters are merged."""
    leaves = dict(walk(opened.read_params()))
    config, params = merged(opened.model.decoder, leaves, adapters)
    return replace(opened.model, config=config, params=params)


def _names_of_adapters(adapter: str | Path | Sequence[str | Path]) -> list[str | Path]:
    names = [adapter] if isinstance(adapter, str | Path) else adapter
    if not isinstance(names, Sequence):
        raise ValueError(f"adapter must be a path or a name, or a list of them, got {shown(adapter)}")
    for name in names:
        check_path("adapter", name)
    return list(names)


def _refuse_beside_host(adapter: Sequence[str | Path], *, images: bool) -> None:
    """Raises ValueError for what does not go together with experts in host memory."""
    if images:
        raise ValueError("experts='host' is for models of text, and this is an image model; leave it out")
    if adapter:
        raise ValueError(
            "experts='host' with an adapter: merging computes with all weights on the device; save "
            "the merged model first, and load that"
        )


def _placement(mesh: Mesh | None, rules: Rules | None) -> Placement | None:
    if mesh is not None and not isinstance(mesh, Mesh):
        raise ValueError(
            f"mesh must be a Mesh, as jaxmodels.tpu_configs.mesh.make_mesh gives, got {shown(mesh)}"
        )
    if rules is not None and (mesh is None or not isinstance(rules, Rules)):
        raise ValueError(
            f"rules must be a jaxmodels.tpu_configs.rules.Rules and come with a mesh, got {shown(rules)} and "
            f"mesh={shown(mesh)}"
        )
    return None if mesh is None else Placement(mesh=mesh, rules=rules or DEFAULT_RULES)


def _check_fits(config: Decoder, dtype: DTypeLike, holding: Holding) -> None:
    check_fits(
        f"a {jnp.dtype(dtype).name} model of {len(config.blocks)} layers (num_hidden_layers) of width "
        f"{config.d_model} (hidden_size) with {config.vocab_size} tokens (vocab_size)",
        holding.weight_bytes(config, dtype),
    )


def _report(params: Params, progress: huggingface.Progress | None) -> None:
    if progress is not None:
        for name, leaf in walk(params):
            progress(name, leaf.nbytes)


def _reported(params: Params, progress: huggingface.Progress | None) -> Params:
    _report(params, progress)
    return params


__all__ = ["CheckpointError", "Format", "init", "load", "save"]
