"""Checks of the arguments of `load`, `save` and `init`; those that are numbers go to `jaxmodels.checks`."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.checks import shown

_DTYPES = ("float32", "bfloat16", "float16")


def check_path(name: str, value: Any) -> None:
    """Raises ValueError unless `value` can be a path: text or `os.PathLike`, not empty."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError(f"{name} must be a path or a name, as text or a Path, got {shown(value)}")


def floating_dtype(name: str, value: Any) -> np.dtype:
    """The dtype that parameters are to have.

    Raises:
        ValueError: it is no dtype or not one that models compute with.
    """
    known = (*_DTYPES, "float64") if jax.config.read("jax_enable_x64") else _DTYPES
    try:
        dtype = None if value is None else jnp.dtype(value)
    except (TypeError, ValueError):
        dtype = None
    if dtype is None or dtype.name not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {shown(value)}")
    return dtype


def closest_dtype(stored: str) -> str:
    """The dtype of those that models compute with which holds numbers of a checkpoint's dtype."""
    return stored if stored in _DTYPES else "float32" if stored == "float64" else "bfloat16"


def default_dtype(stored: str | None) -> np.dtype:
    """The dtype of parameters where none is asked for; `stored`: what most of a checkpoint has, if known."""
    if jax.default_backend() == "cpu":
        return jnp.dtype("float32")
    return jnp.dtype("bfloat16" if stored is None else closest_dtype(stored))


def check_optional_text(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is text or None."""
    if value is not None and (not isinstance(value, str) or not value):
        raise ValueError(f"{name} must be text or None, got {shown(value)}")


def check_boolean(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, got {shown(value)}")


def check_progress(value: Any) -> None:
    """Raises ValueError unless `value` can be called, or is None."""
    if value is not None and not callable(value):
        raise ValueError(f"progress must be a function of a tensor's name and bytes, got {shown(value)}")
