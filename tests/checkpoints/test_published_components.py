"""Published files of pipelines of diffusers: read, written back, with the tensors that its classes have."""

import json
from pathlib import Path

import diffusers
import pytest
import torch

from jaxmodels.checkpoints.schedulers import SCHEDULER_FILE, read_scheduler, write_scheduler
from jaxmodels.models.autoencoders.families import AUTOENCODERS
from jaxmodels.models.denoisers.families import DENOISERS

PUBLISHED = Path(__file__).parent.parent / "published" / "diffusers"
COMPONENTS = {"transformer": DENOISERS, "vae": AUTOENCODERS}
FILES = sorted((part, path) for part in COMPONENTS for path in PUBLISHED.glob(f"*/{part}/config.json"))


def named(case: tuple[str, Path]) -> str:
    part, path = case
    return f"{path.parent.parent.name}-{part}"


@pytest.mark.parametrize("case", FILES, ids=named)
def test_published_components_have_the_tensors_of_their_classes(case):
    part, path = case
    values = json.loads(path.read_text("utf-8"))
    registry = COMPONENTS[part]
    config = registry.read(values)
    written = registry.write(config)
    assert registry.read(written) == config
    assert {key: written[key] for key in values if key in written and values[key] is not None} == {
        key: value for key, value in values.items() if key in written and value is not None
    }

    with torch.device("meta"):
        module = getattr(diffusers, values["_class_name"]).from_config(values)
    theirs = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    ours = {name: tuple(tensor.shape) for name, tensor in registry[config.family].tensors(config).items()}
    assert ours == theirs


@pytest.mark.parametrize(
    "path", sorted(PUBLISHED.glob(f"*/scheduler/{SCHEDULER_FILE}")), ids=lambda p: p.parts[-3]
)
def test_published_schedulers_are_read_and_written_back(path):
    sampler = read_scheduler(json.loads(path.read_text("utf-8")))
    assert read_scheduler(write_scheduler(sampler)) == sampler
