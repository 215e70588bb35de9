"""Rotary position embeddings (https://arxiv.org/abs/2104.09864), of whole heads or a part of them.

A `Rope` turns positions into cosines and sines once per window; `apply_rope` rotates queries and keys by them
in every layer. Its scaling, from `jaxmodels.layers.rope_scaling`, decides the frequencies.

Feature dimension R below is `rotary_dim`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from jaxmodels.checks import number, shown, whole
from jaxmodels.layers.rope_scaling import (
    UNSCALED,
    DynamicNTKScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ProportionalScaling,
    RopeScaling,
    Unscaled,
    YarnScaling,
)

RopeStyle = Literal["half_split", "interleaved"]


@struct.dataclass
class Rotations:
    """The rotation of each token and feature pair, of which there are F = R/2, attention factor included."""

    cos: Float[Array, "B S F"]
    sin: Float[Array, "B S F"]


class Rotary(Protocol):
    """A rotary embedding. Implementations are hashable frozen dataclasses."""

    @property
    def rotary_dim(self) -> int:
        """Features of each head that are rotated, the first ones."""

    @property
    def style(self) -> RopeStyle:
        """Which features form a pair."""

    def rotations(
        self, positions: Int[Array, "B S"], lengths: Int[Array, " B"] | Int[Array, "B S"]
    ) -> Rotations:
        """The rotations of a window of tokens, see `Rope.rotations`."""


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary embedding of the first `rotary_dim` features of each head; the rest carry no position.

    `style` says which features form a pair: "half_split" (i, i + R/2) as in GPT-NeoX and Llama, "interleaved"
    (2i, 2i + 1) as in GPT-J and Cohere.

    Raises:
        ValueError: `rotary_dim` is not positive and even, `theta` is not more than 1, or `style` is unknown.
    """

    rotary_dim: int
    theta: float = 10000.0
    scaling: RopeScaling = UNSCALED
    style: RopeStyle = "half_split"

    def __post_init__(self) -> None:
        if self.rotary_dim < 2 or self.rotary_dim % 2:
            raise ValueError(f"Rope: rotary_dim must be a positive even number, got {self.rotary_dim}")
        if not self.theta > 1:
            raise ValueError(f"Rope: theta must be more than 1, got {self.theta}")
        check_style(self.style)

    def rotations(
        self, positions: Int[Array, "B S"], lengths: Int[Array, " B"] | Int[Array, "B S"]
    ) -> Rotations:
        """The rotations of a window of tokens at `positions`.

        `lengths` counts the tokens of the sequence that a row, or a token, belongs to. With a scaling that
        depends on it, keys already in a cache keep the rotation of the length at which they were written.
        """
        inv_freq, attention_factor = self.scaling.frequencies(self.rotary_dim, self.theta, lengths)
        by_token = inv_freq if inv_freq.ndim == 3 else inv_freq[:, None, :]
        angles = positions.astype(jnp.float32)[..., None] * by_token
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        if attention_factor != 1.0:
            cos, sin = cos * attention_factor, sin * attention_factor
        return _materialised(cos, sin)


def apply_rope(x: Float[Array, "B S N H"], rotations: Rotations, style: RopeStyle) -> Float[Array, "B S N H"]:
    """Rotates the first R features of every head, in float32; the result has ``x.dtype``.

    Raises:
        ValueError: `style` is unknown, or heads have fewer than R features.
    """
    check_style(style)
    half = rotations.cos.shape[-1]
    if x.shape[-1] < 2 * half:
        raise ValueError(
            f"apply_rope: heads of {x.shape[-1]} features cannot hold a rotary_dim of {2 * half}"
        )
    cos, sin = rotations.cos[:, :, None, :], rotations.sin[:, :, None, :]
    rotated, rest = x[..., : 2 * half].astype(jnp.float32), x[..., 2 * half :]
    if style == "half_split":
        a, b = rotated[..., :half], rotated[..., half:]
        y = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    else:
        a, b = rotated[..., 0::2], rotated[..., 1::2]
        y = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(rotated.shape)
    y = y.astype(x.dtype)
    return jnp.concatenate([y, rest], axis=-1) if rest.shape[-1] else y


def rope_from_hf(
    config: Mapping[str, Any],
    head_dim: int,
    *,
    style: RopeStyle = "half_split",
    default_theta: float | None = None,
    default_partial_rotary_factor: float = 1.0,
) -> Rope:
    """Reads the rotary embedding of a Hugging Face `config.json`.

    Both forms are read: ``rope_parameters: {rope_type, rope_theta, ...}`` of transformers 5, and before it
    ``rope_theta`` with ``rope_scaling: {type | rope_type, ...}``. Of those nested by layer type pass one:
    ``rope_from_hf({**config, "rope_parameters": config["rope_parameters"]["full_attention"]}, head_dim)``.

    Args:
        config: the whole configuration; of its other keys only `rope_theta`, `partial_rotary_factor`,
            `max_position_embeddings` and `original_max_position_embeddings` are read.
        head_dim: features per head; the rotary dimension is `partial_rotary_factor` of it, rounded down.
        style: which features form a pair. Configurations do not say.
        default_theta: stands in for a missing `rope_theta`, which is otherwise an error.
        default_partial_rotary_factor: stands in for a missing `partial_rotary_factor`.

    Keys of the mapping that transformers does not read are left unread here too; `unread_rope_keys` names
    those that are not known to be such.

    Raises:
        ValueError: a key is missing, or a value is not of its kind or out of range. The message names it.
    """
    name, inner = _rope_parameters(config)
    rope_type = _rope_type(name, inner)
    theta = _first(inner.get("rope_theta"), config.get("rope_theta"), default_theta)
    if theta is None:
        raise ValueError("rope_theta is missing, from rope_parameters and from the configuration")
    fraction = _first(
        inner.get("partial_rotary_factor"),
        config.get("partial_rotary_factor"),
        default_partial_rotary_factor,
    )
    fraction = _convert("partial_rotary_factor", fraction)
    try:
        values = _scaling_values(config, {**inner, "partial_rotary_factor": fraction}, rope_type)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    rotary_dim = head_dim if rope_type == "proportional" else int(head_dim * fraction)
    if rotary_dim < 2 or rotary_dim % 2:
        raise ValueError(
            f"head_dim={head_dim} with partial_rotary_factor={fraction} gives {rotary_dim} features to "
            f"rotate, whose number must be even and positive; {_FEATURES}"
        )
    _check_fit(rope_type, values, rotary_dim)
    return Rope(
        rotary_dim=rotary_dim,
        theta=_convert("rope_theta", theta),
        scaling=_SCALINGS[rope_type](**values),
        style=style,
    )


def rope_to_hf(rope: Rotary, head_dim: int) -> dict[str, Any]:
    """The part of a Hugging Face configuration that `rope_from_hf` reads back as `rope`, its `style` aside.

    Returns ``{"rope_parameters": {...}}`` and, where the scaling is defined by it, "max_position_embeddings".
    Values at their defaults are left out.

    Raises:
        ValueError: the scaling has no Hugging Face name, or `rope` does not fit `head_dim`.
    """
    if not isinstance(rope, Rope):
        raise ValueError(f"rope_to_hf: {type(rope).__name__} has no Hugging Face rope_type")
    names = {scaling: name for name, scaling in _SCALINGS.items()}
    if type(rope.scaling) not in names:
        raise ValueError(f"rope_to_hf: {type(rope.scaling).__name__} has no Hugging Face rope_type")
    whole_head = isinstance(rope.scaling, ProportionalScaling)
    if rope.rotary_dim > head_dim or (whole_head and rope.rotary_dim != head_dim):
        raise ValueError(f"rope_to_hf: rotary_dim={rope.rotary_dim} does not fit head_dim={head_dim}")
    inner: dict[str, Any] = {"rope_type": names[type(rope.scaling)], "rope_theta": rope.theta}
    if rope.rotary_dim < head_dim:
        inner["partial_rotary_factor"] = _fraction(rope.rotary_dim, head_dim)
    for field in dataclasses.fields(rope.scaling):  # type: ignore[arg-type]
        value = getattr(rope.scaling, field.name)
        if value != field.default:
            inner[field.name] = list(value) if isinstance(value, tuple) else value
    outer = {key: inner.pop(key) for key in ("max_position_embeddings",) if key in inner}
    return {"rope_parameters": inner, **outer}


def unread_rope_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a configuration's rotary mapping that `rope_from_hf` does not read, as ``mapping/key``.

    Left out are those known to change nothing, as transformers does not read them in the families here
    (`IGNORED_KEYS`).
    """
    name, inner = _rope_parameters(config)
    fields = {f.name for f in dataclasses.fields(_SCALINGS[_rope_type(name, inner)])}  # type: ignore[arg-type]
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *fields, *IGNORED_KEYS}
    return {f"{name}/{key}": value for key, value in inner.items() if key not in known}


# What files carry in the mapping although transformers' code computes the same without it.
IGNORED_KEYS = frozenset(
    {
        "attn_factor",  # of other engines' YaRN; transformers warns and derives the factor from `factor`
        "finetuned",  # of the first YaRN models: a note on how they were made
        "long_mscale",  # of Phi-3's first code; transformers reads `attention_factor`
        "max_position_embeddings",  # a copy of the configuration's own key, which is the one that is read
        "mrope_interleaved",  # of axes whose positions are equal for text
        "mrope_section",
        "original_max_position_embeddings",  # also in mappings of types that do not scale by it
        "short_mscale",
    }
)

_SCALINGS: Mapping[str, Callable[..., RopeScaling]] = MappingProxyType(
    {
        "default": Unscaled,
        "linear": LinearScaling,
        "dynamic": DynamicNTKScaling,
        "llama3": Llama3Scaling,
        "yarn": YarnScaling,
        "longrope": LongRopeScaling,
        "proportional": ProportionalScaling,
    }
)


def _rope_parameters(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The one mapping of rotary parameters in `config` and its name, without its nulls."""
    given = {k: config[k] for k in ("rope_parameters", "rope_scaling") if config.get(k) is not None}
    for key, value in given.items():
        if not isinstance(value, Mapping):
            raise ValueError(f"{key} must be a mapping or null, got {shown(value)}")
        nested = [k for k, v in value.items() if isinstance(v, Mapping)]
        if nested:
            raise ValueError(f"{key} is nested by layer type; pass one of {nested} as {key!r} instead")
    if len(given) == 2 and given["rope_parameters"] != given["rope_scaling"]:
        raise ValueError(f"rope_parameters and rope_scaling contradict each other: {given}")
    name, inner = next(iter(given.items()), ("rope_parameters", {}))
    return name, {key: value for key, value in inner.items() if value is not None}


def _rope_type(name: str, inner: Mapping[str, Any]) -> str:
    named = {k: inner[k] for k in ("rope_type", "type") if k in inner}
    # "su" is what the first Phi-3 checkpoints call longrope.
    types = {k: "longrope" if v == "su" else v for k, v in named.items()} or {"rope_type": "default"}
    for key, value in types.items():
        if not isinstance(value, str) or value not in _SCALINGS:
            raise ValueError(
                f"{name}: {key} {shown(value)} is not known; accepted are {', '.join(_SCALINGS)}"
            )
    if len(set(types.values())) > 1:
        raise ValueError(f"{name}: rope_type and type contradict each other: {named}")
    return next(iter(types.values()))


def _scaling_values(config: Mapping[str, Any], inner: Mapping[str, Any], rope_type: str) -> dict[str, Any]:
    """The fields of the scaling of `rope_type`, with transformers' precedence between the maximal lengths."""
    fields = {f.name: f for f in dataclasses.fields(_SCALINGS[rope_type])}  # type: ignore[arg-type]
    found = {key: inner[key] for key in fields if key in inner}
    longest = config.get("max_position_embeddings")
    if "original_max_position_embeddings" in fields:
        outer = config.get("original_max_position_embeddings")
        found["original_max_position_embeddings"] = _first(
            outer, inner.get("original_max_position_embeddings"), longest
        )
    if "max_position_embeddings" in fields and (rope_type == "dynamic" or "factor" not in found):
        found["max_position_embeddings"] = longest
    missing = [
        key
        for key, field in fields.items()
        if field.default is dataclasses.MISSING and found.get(key) is None
    ]
    if missing:
        raise ValueError(f"rope_type {rope_type!r} needs {missing}, missing from {dict(inner)}")
    return {key: _convert(key, value) for key, value in found.items() if value is not None}


# Where the number of rotated features comes from, for messages.
_FEATURES = "these are head_dim (hidden_size / num_attention_heads) * partial_rotary_factor"


def _check_fit(rope_type: str, values: Mapping[str, Any], rotary_dim: int) -> None:
    """Raises ValueError where a scaling's values do not fit the number of features that are rotated."""
    if rope_type == "dynamic" and rotary_dim == 2:
        raise ValueError("rope_type 'dynamic' needs more than 2 features to rotate in each head")
    for key in ("short_factor", "long_factor"):
        if key in values and len(values[key]) != rotary_dim // 2:
            raise ValueError(
                f"{key} must hold a number for each of {rotary_dim // 2} pairs of rotated features, got "
                f"{len(values[key])}; {_FEATURES}"
            )


def _convert(key: str, value: Any) -> Any:
    if key == "truncate":
        if not isinstance(value, bool):
            raise ValueError(f"{key} must be true or false, got {shown(value)}")
        return value
    if key in ("short_factor", "long_factor"):
        if not isinstance(value, list | tuple):
            raise ValueError(f"{key} must be a list of numbers, got {shown(value)}")
        return tuple(number(key, v, low=0.0, low_included=False) for v in value)
    if key.endswith("max_position_embeddings"):
        given = int(value) if isinstance(value, float) and value.is_integer() else value
        return whole(key, given, low=1)
    low, high = _RANGES.get(key, (0.0, math.inf))
    return number(key, value, low=low, high=high, low_included=False)


# What rotary parameters are above, and at most; the others are above 0.
_RANGES = MappingProxyType(
    {
        "mscale": (-math.inf, math.inf),
        "mscale_all_dim": (-math.inf, math.inf),
        "partial_rotary_factor": (0.0, 1.0),
        "rope_theta": (1.0, math.inf),
    }
)


def _first(*values: Any) -> Any:
    return next((v for v in values if v is not None), None)


def _fraction(part: int, whole: int) -> float:
    """A float whose product with `whole` is `part` when rounded down; the quotient itself can fall short."""
    fraction = part / whole
    while int(whole * fraction) < part:
        fraction = math.nextafter(fraction, 1.0)
    return fraction


def _materialised(cos: Float[Array, "B S F"], sin: Float[Array, "B S F"]) -> Rotations:
    """The same values, computed once however many layers read them.

    XLA fuses a cosine into each of its readers, so that every head of every layer would compute it anew: for
    24 layers of 32 heads on a CPU, 0.5 ms per token instead of 0.05, and 180 ms to prefill 256 instead of 25.
    There an `optimization_barrier` is gone before fusion, but a partial update of a buffer is not fused.
    """
    table = jnp.zeros((2, *cos.shape), cos.dtype)
    for i, values in enumerate((cos, sin)):
        table = jax.lax.dynamic_update_slice(table, values[None], (i, 0, 0, 0))
    return Rotations(cos=table[0], sin=table[1])


def check_style(style: str) -> None:
    """Raises ValueError unless `style` is a `RopeStyle`."""
    if style not in ("half_split", "interleaved"):
        raise ValueError(f"style must be 'half_split' or 'interleaved', got {style!r}")
