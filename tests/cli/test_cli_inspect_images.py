"""`jaxmodels inspect` of pipelines and of single denoisers, without their weights."""

import json

import huggingface_hub
import pytest
from denoiser_models import CONFIGS
from diffusion_models import denoiser_of

import jaxmodels as jm
from jaxmodels.checkpoints.hub import resolve
from jaxmodels.cli.inspect_images import describe_denoiser
from jaxmodels.layers.spec import walk
from jaxmodels.models.denoisers.families import DENOISERS


@pytest.fixture(params=CONFIGS)
def denoiser(request, tmp_path):
    """A denoiser of each class, of which there is the configuration alone."""
    config = DENOISERS.read({**CONFIGS[request.param], "_class_name": request.param})
    (tmp_path / "config.json").write_text(json.dumps(DENOISERS.write(config)))
    return config, tmp_path


def test_a_denoiser_is_shown_with_the_cost_of_a_call(run, denoiser):
    config, directory = denoiser
    report = json.loads(run("inspect", directory, "--context", 7, "--json").stdout)["denoiser"]
    side = report["canvas"]["side"]
    is_of_texts = config.flops(side, side, 8) > config.flops(side, side, 7)
    assert report["flops"] == {
        "context": 7 if is_of_texts else None,
        "per_call": config.flops(side, side, 7),
    }
    assert report["tokens"] == (side // config.projections.patch) ** 2
    assert sum(one["times"] for one in report["pattern"]) == config.num_blocks
    shown = run("inspect", directory, "--context", 7).stdout
    assert config.family in shown and f"{report['parameters']:,}" in shown


def test_parameters_are_counted():
    config, params = denoiser_of("DiTTransformer2DModel")

    counted = describe_denoiser(config, 8, 0)["parameters"]
    assert counted == sum(leaf.size for _, leaf in walk(params))


def test_a_pipeline_is_shown_with_its_components(run):
    report = json.loads(run("inspect", "tiny-maskgit", "--json").stdout)
    model = jm.load("tiny-maskgit")
    assert report["pipeline"] == "MaskGITPipeline" and report["size"] == model.size
    assert {name: part["class"] for name, part in report["components"].items()} == {
        "transformer": "Decoder",
        "vqvae": "VQModel",
    }
    assert "MaskGITPipeline" in run("inspect", "tiny-maskgit").stdout


def test_a_diffusion_model_is_shown_with_its_sampler_and_calibrations(run):
    report = json.loads(run("inspect", "tiny-dit", "--json").stdout)
    model = jm.load("tiny-dit")
    parts = {name: part["class"] for name, part in report["components"].items()}
    assert parts["scheduler"] == "DDIMScheduler" and parts["step_caches.json"] == "Calibrations"
    assert report["run"] == {"steps": model.habits.steps, "guidance": model.habits.guidance}
    assert report["denoiser"]["canvas"]["side"] == model.canvas
    assert "DDIM(" in run("inspect", "tiny-dit").stdout


def test_of_a_repository_all_but_the_weights_is_fetched(run, monkeypatch):
    fetched = []

    def fetch(repository, *, revision, allow_patterns, ignore_patterns):
        assert (repository, revision) == ("some/pipeline", "v1")
        fetched.extend(allow_patterns)
        return str(resolve("tiny-dit"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    report = json.loads(run("inspect", "some/pipeline", "--revision", "v1", "--json").stdout)
    assert report["pipeline"] == "DiTPipeline" and "transformer/*.json" in fetched
    assert not any("safetensors" in pattern or "bin" in pattern for pattern in fetched)


def test_texts_are_not_shown_to_image_models(run):
    told = run("inspect", "tiny-maskgit", "--text", "a", code=2).stderr
    assert "'tiny-maskgit' is an image model: --text, --file and --plot are of language models" in told
