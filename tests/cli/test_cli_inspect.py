"""`jaxmodels inspect`: the figures of `jaxmodels.models.costs`, from a config.json alone."""

import json

import huggingface_hub
import pytest
from model_helpers import attention, decoder, ssd
from published_configs import DIRECTORY

import jaxmodels as jm
from jaxmodels.cli.inspect import describe
from jaxmodels.cli.summaries import summarise
from jaxmodels.models import costs


@pytest.fixture
def config_file(tmp_path, config_values):
    file = tmp_path / "some_config.json"
    file.write_text(json.dumps(config_values))
    return file


def test_json_holds_the_costs(run, config_file, config_values):
    values = json.loads(run("inspect", config_file, "--json", "--context", 100, "--dtype", "float32").stdout)
    config = jm.config_from_hf(config_values)
    assert values["config"] == str(config_file)
    assert (values["family"], values["layers"], values["d_model"]) == ("mamba2", 2, 16)
    assert values["parameters"]["total"] == costs.parameter_counts(config).total
    assert values["bytes"] == {name: costs.weight_bytes(config, name) for name in ("float32", "bfloat16")}
    assert values["cache"] == {"dtype": "float32", **vars(costs.cache_bytes(config, "float32"))}
    decode = costs.flops_per_token(config, 100)
    assert values["flops"]["decode_per_token"] == {**vars(decode), "total": decode.total}
    assert values["flops"]["prefill_per_token"] == costs.prefill_flops(config, 100) / 100


def test_a_directory_without_weights_is_enough(run, tmp_path, config_values):
    (tmp_path / "config.json").write_text(json.dumps(config_values))
    out = run("inspect", tmp_path).stdout
    for text in ("mamba2", "2: 2A", "SSDMixer(num_heads=4", "the embedding", "0 B per token"):
        assert text in " ".join(out.split())


def test_blocks_are_run_length_coded():
    a, b = ssd(), attention()
    report = describe(decoder(a, a, b, a), 8, "float32")
    runs = [(run["times"], run["block"]) for run in report["pattern"]]
    assert runs == [(2, "A"), (1, "B"), (1, "A")]
    assert report["blocks"]["A"]["times"] == 3 and report["blocks"]["A"]["feed_forward"] is None
    assert report["blocks"]["B"]["feed_forward"] == "GatedMLP(d_ff=24)"


def test_a_layer_is_summarised_by_what_is_not_default():
    text = summarise(attention(sliding_window=3))
    assert text.startswith("Attention(num_heads=4, num_kv_heads=2, head_dim=6, rope=Rope(rotary_dim=")
    assert "sliding_window=3" in text and "softcap" not in text and "d_model" not in text


def test_errors_name_the_file(run, config_file, config_values):
    config_file.write_text(json.dumps(config_values | {"frobnicate": 1}))
    error = run("inspect", config_file, code=2).stderr
    assert str(config_file) in error and "frobnicate" in error
    config_file.write_text("{")
    assert "is not valid JSON" in run("inspect", config_file, code=2).stderr


@pytest.mark.parametrize("context", [0, -3, 2**31])
def test_a_context_out_of_range_is_named(run, context):
    assert (
        f"context must be a whole number >= 1 and <= 2147483647, got {context}"
        in run("inspect", "--context", context, code=2).stderr
    )


def test_of_a_repository_only_the_config_is_fetched(run, config_file, monkeypatch):
    calls = []

    def fetch(*arguments, **keywords):
        calls.append((arguments, keywords))
        return str(config_file)

    def outline(repository, *, revision, allow_patterns, ignore_patterns):
        assert (repository, revision) == ("some/model", "v1")
        assert allow_patterns == ["config.json", "model_index.json"]
        return str(config_file.parent)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", outline)
    values = json.loads(run("inspect", "some/model", "--revision", "v1", "--json").stdout)
    assert values["family"] == "mamba2"
    assert calls == [(("some/model", "config.json"), {"revision": "v1"})]


def test_a_repository_that_cannot_be_fetched(run, monkeypatch):
    def fail(*arguments, **keywords):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    error = run("inspect", "some/model", code=2).stderr
    assert "cannot fetch the Hugging Face repository 'some/model'" in error
    assert "no network" in error


@pytest.mark.parametrize("name", ["tiny-mamba2", "tiny-qwen3"])
def test_bundled_models(run, name):
    values = json.loads(run("inspect", name, "--json").stdout)
    assert values["family"] == name.removeprefix("tiny-") and values["layers"] == 5


def test_hidden_attention_is_plotted(run, tmp_path):
    image = tmp_path / "seen.png"
    out = run("inspect", "tiny-mamba2", "--text", "import os\n", "--hidden-attention", 1, "--plot", image)
    assert "of block 1" in out.stdout
    assert image.read_bytes().startswith(b"\x89PNG")


def test_a_text_is_needed_for_what_depends_on_it(run, tmp_path):
    error = run("inspect", "tiny-mamba2", "--hidden-attention", 1, code=2).stderr
    assert "needs a text" in error
    error = run("inspect", "tiny-qwen3", "--text", "x", "--hidden-attention", 1, code=2).stderr
    assert "block 1 (mixer: Attention) has no hidden attention" in error
    (tmp_path / "text").write_text("x")
    error = run("inspect", "--text", "x", "--file", tmp_path / "text", code=2).stderr
    assert "not both" in error
    error = run("inspect", "--text", "x", code=2).stderr
    assert "tiny-mamba2 has no experts whose load on a text could be shown" in error
    assert "--plot is the image of --hidden-attention" in run("inspect", "--plot", "x.png", code=2).stderr


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("", "must end in .png or another of"),
        ("seen.foo", "must end in .png or another of"),
        ("nowhere/seen.png", "must be a file in a directory that exists"),
    ],
)
def test_images_that_cannot_be_written(run, tmp_path, monkeypatch, image, message):
    monkeypatch.chdir(tmp_path)
    error = run("inspect", "--text", "x", "--hidden-attention", 1, "--plot", image, code=2).stderr
    assert "--plot" in error and message in error
    assert not list(tmp_path.iterdir())


def test_a_home_that_is_not_there(run):
    assert "is no path" in run("inspect", "~nobody-of-this-name/x", code=2).stderr


def test_a_hybrid_with_experts(run):
    """Blocks of one layer each, and how evenly a text uses the experts."""
    out = " ".join(run("inspect", "tiny-hybrid-moe").stdout.split())
    assert "7: 1A 1B 1A 1C 1B 1A 1B" in out
    assert "MoE(router=SigmoidTopK(num_experts=8, top_k=2" in out
    report = json.loads(run("inspect", "tiny-hybrid-moe", "--text", "import os\n", "--json").stdout)
    assert set(report["experts"]) == {"1", "4", "6"}
    for load in report["experts"].values():
        assert sum(load["load"]) == 2 * load["tokens"] and load["experts_per_token"] == 2
        assert 0 < load["balance"] <= 1


def test_modules_for_multi_token_prediction_are_counted_beside_the_model(run):
    """Without the embedding and the head, which it shares with the model."""
    file = DIRECTORY / "deepseek_v3--DeepSeek-V3-no-quantization.json"
    values = json.loads(run("inspect", file, "--json").stdout)
    assert values["multi_token_prediction"] == {"modules": 1, "parameters": 11_610_068_224}
    assert "1 module beside the model" in " ".join(run("inspect", file).stdout.split())


@pytest.mark.sweep
def test_blocks_are_shown_by_what_they_contribute(run, model_dir, tmp_path):
    pytest.importorskip("matplotlib")
    image, shown = tmp_path / "blocks.png", ("--text", "the cat sat on the mat", "--depth")
    report = json.loads(
        run("inspect", model_dir, *shown, "--speed-up", 1.0, "--plot", image, "--json").stdout
    )
    assert len(report["depth"]["blocks"]) == report["layers"]
    assert report["depth"]["proposal"]["skip"] == [] and report["depth"]["proposal"]["speed_up"] == 1.0
    assert image.read_bytes().startswith(b"\x89PNG")
    out = " ".join(run("inspect", model_dir, *shown, "--speed-up", 1.0).stdout.split())
    assert "block 1" in out and "skip nothing: 1.00 times as fast" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--depth",), "--depth needs a text"),
        (("--text", "the cat", "--speed-up", 2), "give that too"),
        (("--text", "the cat", "--depth", "--speed-up", 9), "more than this model of 2 blocks can give"),
        (("--text", "the cat", "--depth", "--speed-up", 0.5), "speed_up must be a finite number >= 1"),
        (("--text", "the cat", "--depth", "--hidden-attention", 0), "not both"),
    ],
)
def test_reports_on_depth_that_are_refused(run, model_dir, options, message):
    assert message in run("inspect", model_dir, *options, code=2).stderr
