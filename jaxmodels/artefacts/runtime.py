"""What compiled programs run on: the device, and the versions of what makes and runs them.

Imports no layer and no model, so that programs can be read before those are imported.
"""

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

if TYPE_CHECKING:
    from jaxmodels.tpu_configs.shardings import Placement

# Compilers and what hands programs to them. Their versions are compared as they are written.
_COMPILERS = {"cpu": (), "tpu": ("libtpu",), "gpu": ("jax-cuda12-plugin", "jax-cuda13-plugin")}
_PACKAGES = ("jaxmodels", "jax", "jaxlib")
# By these begin the names of variables that change what is traced or compiled, but for those of caches.
_SETTINGS, _OF_CACHES = ("JAX_", "XLA_", "LIBTPU_"), ("COMPILATION_CACHE", "PERSISTENT_CACHE")
_CPU_INFORMATION = Path("/proc/cpuinfo")


def describe_versions(platform_name: str) -> dict[str, str]:
    """The versions of what makes and runs programs of a platform; those that are installed."""
    found = {}
    for package in (*_PACKAGES, *_COMPILERS.get(platform_name, ())):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe_devices(devices: Sequence[jax.Device], placement: "Placement | None" = None) -> dict[str, Any]:
    """What programs for these devices can run on, and how a model is spread over them."""
    first = devices[0]
    described: dict[str, Any] = {
        "platform": first.platform,
        "kind": first.device_kind,
        "count": len(devices),
    }
    if first.platform == "cpu":
        described["instructions"] = f"{platform.machine()} {digest(_instruction_sets())}"
    if placement is not None:
        described["mesh"] = {axis: size for axis, size in placement.sizes.items() if size > 1}
        rules = asdict(placement.rules)
        described["rules"] = {
            axis: list(rule) if isinstance(rule, tuple) else rule for axis, rule in rules.items()
        }
    return described


def of_runtime(device: jax.Device) -> str:
    """All that programs of the same source depend on: compilers, device, and the variables by which JAX and
    XLA are told of their settings."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_SETTINGS) and not any(part in name for part in _OF_CACHES)
    }
    return f"{describe_versions(device.platform)} {describe_devices([device])} {sorted(variables.items())}"


def _instruction_sets() -> str:
    """What the processor can execute, as far as the system tells."""
    if not _CPU_INFORMATION.is_file():
        return platform.processor()
    for line in _CPU_INFORMATION.read_text("utf-8").splitlines():
        name, _, values = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return " ".join(sorted(values.split()))
    return platform.processor()


def digest(*texts: str) -> str:
    """A short name for texts, another for other ones."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
