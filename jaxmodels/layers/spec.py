"""Parameter specifications: one tree that drives initialisation, sharding, loading and counts.

A layer's `spec()` returns a `ParamTree`, a nested dict whose leaves are `Param`. Parameters are the same
nested dict with arrays at the leaves. A path such as ``"blocks/3/mixer/w_out"`` names a leaf.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxmodels.layers.quantized.array import QuantizedArray
from jaxmodels.layers.quantized.packed import PackedStack


class Initializer(Protocol):
    """Draws the initial value of one parameter. Implementations are hashable frozen dataclasses."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array: ...


@dataclass(frozen=True)
class Normal:
    """Gaussian entries with mean 0."""

    stddev: float = 0.02

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        return (self.stddev * jax.random.normal(key, shape, jnp.float32)).astype(dtype)


@dataclass(frozen=True)
class FanIn:
    """Gaussian entries with variance ``1 / fan_in``; `fan_in` is the product of the contracted dimensions."""

    fan_in: int

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        return (jax.random.normal(key, shape, jnp.float32) / math.sqrt(self.fan_in)).astype(dtype)


@dataclass(frozen=True)
class Constant:
    """The same value everywhere."""

    value: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        return jnp.full(shape, self.value, dtype)


ZEROS = Constant(0.0)
ONES = Constant(1.0)


@dataclass(frozen=True)
class Param:
    """One array of a layer: its shape, a logical axis name for each dimension, and how to draw it.

    Logical axes are what sharding rules map to mesh axes; None marks a dimension that is never sharded.
    `dtype` pins parameters whose precision must not follow the model's (state-space decays, say). `frozen`
    marks what keeps its initial value in training. `contracted` are the dimensions, counted from the last,
    that products with a matrix sum over: what names them may be held in few bits, see `layers.quantized`.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: Initializer = Normal()
    dtype: str | None = None
    frozen: bool = False
    contracted: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.axes):
            raise ValueError(f"Param: axes {self.axes} must name each dimension of shape {self.shape}")
        if any(d < 1 for d in self.shape):
            raise ValueError(f"Param: every dimension must be at least 1, got shape {self.shape}")

    @property
    def is_expert_stack(self) -> bool:
        """Whether it holds a matrix for each expert of a mixture, of which a token needs those of a few."""
        return self.axes[:1] == ("experts",) and bool(self.contracted)


def matrix(shape: tuple[int, ...], axes: tuple[str | None, ...], inputs: int = 1) -> Param:
    """A weight for `linear`: outputs, then as many dimensions of `inputs`, and entries whose variance is the
    inverse of the number of inputs."""
    fan_in = math.prod(shape[-inputs:])
    return Param(shape, axes, FanIn(fan_in), contracted=tuple(range(-inputs, 0)))


# What the logical axes of parameters and states are named after.
LOGICAL_AXES = {
    "batch": "rows of a batch",
    "embed": "the model's width, that of the residual stream",
    "experts": "experts of a mixture",
    "head_dim": "what one head is wide, of queries, keys or values",
    "heads": "query heads, or value heads of a delta rule",
    "kv_heads": "key and value heads, or key heads of a delta rule",
    "latent": "the narrow vector that keys, values or queries of latent attention are made of",
    "layers": "equal layers whose parameters are stacked",
    "mlp": "what a feed-forward is wide inside",
    "slots": "places for tokens in a cache",
    "ssm_groups": "groups of heads of a state space layer that share B and C",
    "ssm_heads": "heads of a state space layer, or blocks of channels that are gated together",
    "ssm_inner": "the channels inside a recurrent layer: its heads times their width",
    "ssm_state": "state dimensions of a state space layer",
    "vocab": "the vocabulary",
}

ParamTree: TypeAlias = dict[str, "Param | ParamTree"]
Params: TypeAlias = dict[str, Any]


def walk(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (path, leaf) of a nested dict in insertion order, paths joined by "/"."""
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from walk(value, path + "/")
        else:
            yield path, value


def unflatten(leaves: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict of the structure of `like` with `leaves` by path.

    A layer without parameters, such as a norm without weights, has an empty dict in `like` and in the result,
    so that what holds it may always write ``params["norm"]``.

    Raises:
        KeyError: a path of `like` is not in `leaves`.
    """

    def filled(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: filled(value, f"{prefix}{key}/") if isinstance(value, Mapping) else leaves[f"{prefix}{key}"]
            for key, value in tree.items()
        }

    return filled(like, "")


def without_leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yields the paths of the empty dicts in a nested dict: those of layers without parameters."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            path = f"{prefix}{key}"
            yield from without_leaves(value, path + "/") if value else (path,)


def param_dtype(param: "Param | Buffer", dtype: DTypeLike) -> np.dtype:
    """The dtype a parameter or buffer is held in when that of the model or cache is `dtype`."""
    return np.dtype(jnp.dtype(param.dtype or dtype))


def init_params(
    spec: ParamTree, key: jax.Array, dtype: DTypeLike = jnp.float32, shardings: Params | None = None
) -> Params:
    """Draws every parameter of `spec`. Each leaf's key depends on its path alone, not on its siblings.

    With `shardings`, a tree like `spec`, each is drawn where it belongs, with the same values.
    """
    places = {} if shardings is None else dict(walk(shardings))

    def draw(path: str, param: Param) -> jax.Array:
        number = np.uint32(_stable_hash(path))
        drawn = _drawing(places.get(path))
        return drawn(key, number, init=param.init, shape=param.shape, dtype=param_dtype(param, dtype))

    return unflatten({path: draw(path, param) for path, param in walk(spec)}, spec)


# One program for all parameters of a kind: a single one for a deep model would take long to compile.
@functools.cache
def _drawing(sharding: jax.sharding.Sharding | None) -> Callable[..., jax.Array]:
    return jax.jit(_draw, static_argnames=("init", "shape", "dtype"), out_shardings=sharding)


def _draw(
    key: jax.Array, number: np.uint32, init: Initializer, shape: tuple[int, ...], dtype: np.dtype
) -> jax.Array:
    return init(jax.random.fold_in(key, number), shape, dtype)


class Stateful(Protocol):
    """A layer or block that keeps a state between windows."""

    def state_spec(self, batch: int, capacity: int) -> Any:
        """The state of an empty history with room for `capacity` tokens: a tree of `Buffer`, of the
        type that the state has."""
        ...


@dataclass(frozen=True)
class Buffer:
    """One array of a state, as `Param` is one of a layer's parameters.

    Attributes:
        shape, axes: its dimensions and their logical names, None for what is never sharded.
        dtype: where it does not follow the cache's.
        fill: its entries while the history is empty.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    dtype: str | None = None
    fill: float = 0.0

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.axes):
            raise ValueError(f"Buffer: axes {self.axes} must name each dimension of shape {self.shape}")


def buffer(
    shape: tuple[int, ...], axes: tuple[str | None, ...], dtype: str | None = None, fill: float = 0.0
) -> Any:
    """The `Buffer` with these attributes, typed to stand where the state has its array."""
    return Buffer(shape, axes, dtype, fill)


def init_state(layer: Stateful, batch: int, capacity: int, dtype: DTypeLike) -> Any:
    """The state of an empty history with room for `capacity` tokens, as `layer.state_spec` describes it."""
    return filled(layer.state_spec(batch, capacity), dtype)


def filled(spec: Any, dtype: DTypeLike) -> Any:
    """The arrays that a tree of `Buffer` describes."""

    def fill(leaf: Buffer) -> jax.Array:
        return jnp.full(leaf.shape, leaf.fill, param_dtype(leaf, dtype))

    return jax.tree.map(fill, spec)


def check_params(spec: ParamTree, params: Params) -> None:
    """Raises ValueError, with the parameter named, where `params` are not those of `spec`: one is missing,
    unknown, no array, quantised or not, of another shape or of no floating dtype."""
    if not isinstance(params, Mapping):
        raise ValueError(f"params must be a nested dict of arrays, got {type(params).__name__}")
    expected, given = dict(walk(spec)), dict(walk(params))
    missing = [path for path in expected if path not in given]
    unknown = [path for path in given if path not in expected]
    if missing or unknown:
        parts = [f"{what} {names[:3]}" for what, names in (("lack", missing), ("have", unknown)) if names]
        raise ValueError(
            f"the parameters are not those of the model: they {' and '.join(parts)}, {len(missing)} missing "
            f"and {len(unknown)} unknown of {len(expected)}"
        )
    bare = set(without_leaves(spec)) - set(without_leaves(params))
    if bare:
        raise ValueError(
            f"the parameters are not those of the model: they lack {sorted(bare)[:3]}, an empty dict for "
            "each layer without parameters"
        )
    for path, param in expected.items():
        leaf = given[path]
        if not isinstance(leaf, jax.Array | np.ndarray | QuantizedArray | PackedStack):
            raise ValueError(f"parameter {path!r} must be an array, got {type(leaf).__name__}")
        if not isinstance(leaf, np.ndarray) and leaf.is_deleted():
            raise ValueError(f"parameter {path!r} was given away to a compiled program that donates it")
        if leaf.shape != param.shape:
            raise ValueError(f"parameter {path!r} has shape {list(leaf.shape)}, expected {list(param.shape)}")
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"parameter {path!r} has dtype {leaf.dtype}, expected a floating one")


def abstract_params(spec: ParamTree, dtype: DTypeLike = jnp.float32) -> Params:
    """`jax.ShapeDtypeStruct` leaves: what ahead-of-time compilation and restoring need."""
    shapes = {path: jax.ShapeDtypeStruct(p.shape, param_dtype(p, dtype)) for path, p in walk(spec)}
    return unflatten(shapes, spec)


def logical_axes(spec: ParamTree) -> Params:
    """The logical axis names of every leaf, in the same tree."""
    return unflatten({path: p.axes for path, p in walk(spec)}, spec)


def count_params(spec: ParamTree) -> int:
    """Number of scalars in the tree."""
    return sum(math.prod(p.shape) for _, p in walk(spec))


def _stable_hash(path: str) -> int:
    """32-bit FNV-1a, because `hash` of a string changes between processes."""
    value = 0x811C9DC5
    for byte in path.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value
