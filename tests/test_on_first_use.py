"""Packages whose names are imported on first use: all are there, and starts do without them."""

import importlib
import subprocess
import sys

import pytest

PACKAGES = (
    "jaxmodels",
    "decoding",
    "decoding.drafters",
    "decoding.processors",
    "decoding.masked",
    *(f"decoding.masked.{name}" for name in ("blocks", "caches", "remask", "stop", "unmask")),
    "checkpoints.gguf",
)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there(package):
    module = importlib.import_module("jaxmodels" if package == "jaxmodels" else f"jaxmodels.{package}")
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None, name
    with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'Nothing'"):
        module.Nothing  # noqa: B018


def test_a_model_of_next_tokens_generates_without_what_it_has_no_need_of():
    asked = (
        "import sys, jaxmodels as jm; jm.load('tiny-mamba2').generate('a', 1); "
        "unneeded = ('jinja2', 'optax', 'orbax', 'jaxmodels.decoding.masked', 'jaxmodels.decoding.choosing', "
        "'jaxmodels.checkpoints.gguf.tensors'); "
        "print([name for name in unneeded if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
