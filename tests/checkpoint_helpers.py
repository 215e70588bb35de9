"""Checkpoints that tests change by hand."""

from pathlib import Path

import jaxmodels as jm
from jaxmodels.checkpoints.manifest import MANIFEST_FILE


def save_to_change(model: jm.Model, directory: Path) -> None:
    """Saves a model as other programs do: without checksums, which a changed file would not match."""
    jm.save(model, directory)
    (directory / MANIFEST_FILE).unlink()
