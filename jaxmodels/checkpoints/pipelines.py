"""Models of several parts, each in a directory of its own, as `diffusers` lays them out.

``model_index.json`` names the parts of a pipeline. Ours hold a model of codes and the autoencoder of those:

    {"_class_name": "MaskGITPipeline",
     "transformer": ["jaxmodels", "Decoder"], "vqvae": ["diffusers", "VQModel"]}
"""

import json
from pathlib import Path

from jaxmodels.checkpoints.atomic import replace_file
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.files import read_json_object
from jaxmodels.checks import shown

INDEX_FILE = "model_index.json"
CLASS = "MaskGITPipeline"
TRANSFORMER, AUTOENCODER = "transformer", "vqvae"
_PARTS = {TRANSFORMER: ["jaxmodels", "Decoder"], AUTOENCODER: ["diffusers", "VQModel"]}


def is_pipeline(directory: Path) -> bool:
    """Whether a directory holds a model of several parts."""
    return directory.is_dir() and (directory / INDEX_FILE).is_file()


def check_pipeline(directory: Path) -> None:
    """Raises `CheckpointError` unless a pipeline is of the class and has the parts that are read."""
    file = directory / INDEX_FILE
    name = read_json_object(file).get("_class_name")
    if name != CLASS:
        raise CheckpointError(
            f"{file}: key '_class_name' is {shown(name)}; of pipelines {CLASS} is read. The parts of others "
            "may be read one by one, see jaxmodels.checkpoints.diffusers"
        )
    for part in _PARTS:
        if not (directory / part).is_dir():
            raise CheckpointError(f"{directory}: the directory {part!r} of the pipeline is missing")


def write_pipeline(directory: Path) -> None:
    """Writes the index of a pipeline."""
    replace_file(directory / INDEX_FILE, json.dumps({"_class_name": CLASS, **_PARTS}, indent=2) + "\n")
