"""Names of models become directories, and only what has the form of a repository goes to the hub."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import filter_repo_objects

from jaxmodels.checkpoints import hub
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.hub import fetch_outline, list_bundled, resolve


class FakeHub:
    """Stands in for `snapshot_download`: records its calls and 'downloads' to a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.calls: list[dict[str, object]] = []
        self.error: Exception | None = None

    def __call__(self, repository: str, **arguments: object) -> str:
        self.calls.append({"repository": repository, **arguments})
        if self.error is not None:
            raise self.error
        return str(self.directory)


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    fake = FakeHub(tmp_path / "snapshot")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    return fake


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "bundled"
    (root / "tiny-mamba2").mkdir(parents=True)
    (root / "tiny-mamba2" / "config.json").write_text("{}")
    (root / "not-a-model").mkdir()
    monkeypatch.setattr(hub, "_bundled_root", lambda: root)
    return root


def test_a_directory_is_itself(tmp_path: Path, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty" / "org" / "name").mkdir(parents=True)
    assert resolve("org/name") == Path("org/name")
    assert resolve(tmp_path) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/snapshot") == tmp_path / "snapshot"
    assert fake_hub.calls == []


def test_a_bundled_name(fake_hub: FakeHub, bundled: Path) -> None:
    assert list_bundled() == ("tiny-mamba2",)
    assert resolve("tiny-mamba2") == bundled / "tiny-mamba2"
    assert fake_hub.calls == []


def test_bundled_models_are_inside_the_package() -> None:
    root = hub._bundled_root()
    assert root.parent == Path(hub.__file__).parents[1]
    assert all(resolve(name) == root / name for name in list_bundled())


def test_a_repository_is_downloaded_without_pickles(fake_hub: FakeHub) -> None:
    assert resolve("org/name-1.5B_x", "v2") == fake_hub.directory
    index, call = fake_hub.calls
    assert index["allow_patterns"] == ["model_index.json"]
    assert (call["repository"], call["revision"]) == ("org/name-1.5B_x", "v2")
    patterns = call["allow_patterns"]
    assert patterns == ["*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "*.safetensors"]


# Of a repository as those of Stable Diffusion 3 and of Flux are laid out.
OF_A_PIPELINE = {
    "README.md": False,
    "model_index.json": True,
    "sd3_medium.safetensors": False,
    "scheduler/scheduler_config.json": True,
    "text_encoder/config.json": True,
    "text_encoder/model.safetensors": True,
    "text_encoder/model.fp16.safetensors": False,
    "text_encoder/model.fp16-00001-of-00002.safetensors": False,
    "text_encoder/pytorch_model.bin": False,
    "text_encoder_2/pytorch_model.bin": False,
    "text_encoder_2/flax_model.msgpack": False,
    "tokenizer/merges.txt": True,
    "tokenizer/vocab.json": True,
    "tokenizer_2/spiece.model": True,
    "tokenizer_3/vocab.txt": True,
    "transformer/diffusion_pytorch_model-00001-of-00002.safetensors": True,
    "transformer/diffusion_pytorch_model.safetensors.index.json": True,
    "controlnet/diffusion_pytorch_model.safetensors": False,
    "image_encoder/model.safetensors": False,
}


@pytest.fixture
def pipeline_hub(fake_hub: FakeHub) -> Callable[[], set[str]]:
    """A hub with a pipeline; gives the files that the calls so far fetch."""
    folders = {name.split("/")[0] for name in OF_A_PIPELINE if "/" in name} - {"controlnet", "image_encoder"}
    index = {folder: ["diffusers", "Some"] for folder in folders} | {"image_encoder": [None, None]}
    (fake_hub.directory / "model_index.json").write_text(json.dumps({"_class_name": "Some", **index}))

    def fetched() -> set[str]:
        last = fake_hub.calls[-1]
        patterns = {"allow_patterns": last["allow_patterns"], "ignore_patterns": last["ignore_patterns"]}
        return set(filter_repo_objects(list(OF_A_PIPELINE), **patterns))  # type: ignore[arg-type]

    return fetched


def test_of_a_pipeline_the_folders_that_its_index_names(pipeline_hub: Callable[[], set[str]]) -> None:
    resolve("org/name")
    assert pipeline_hub() == {name for name, is_needed in OF_A_PIPELINE.items() if is_needed}


def test_pickles_of_components_without_other_weights(
    fake_hub: FakeHub, pipeline_hub: Callable[[], set[str]]
) -> None:
    for folder in ("text_encoder", "transformer"):
        (fake_hub.directory / folder).mkdir()
        (fake_hub.directory / folder / "a.safetensors").touch()
    resolve("org/name", allow_pickle=True)
    needed = {name for name, is_needed in OF_A_PIPELINE.items() if is_needed}
    assert pipeline_hub() == needed | {"text_encoder_2/pytorch_model.bin"}


def test_an_outline_has_no_weights(fake_hub: FakeHub, pipeline_hub: Callable[[], set[str]]) -> None:
    assert fetch_outline("org/name", "v2") == fake_hub.directory
    needed = {name for name, is_needed in OF_A_PIPELINE.items() if is_needed}
    assert pipeline_hub() == {name for name in needed if not name.endswith(".safetensors")}
    assert {call["revision"] for call in fake_hub.calls} == {"v2"}


def test_pickles_only_when_allowed_and_needed(fake_hub: FakeHub) -> None:
    resolve("org/name", allow_pickle=True)
    assert [("pytorch_model*.bin" in call["allow_patterns"]) for call in fake_hub.calls[1:]] == [False, True]
    (fake_hub.directory / "model.safetensors").touch()
    fake_hub.calls.clear()
    resolve("org/name", allow_pickle=True)
    assert len(fake_hub.calls) == 2


@pytest.mark.parametrize(
    "name",
    [
        "./org/name",
        "../name",
        "/org/name",
        "~/name",
        "a/b/c",
        "tiny-mamba2",
        "gpt2",
        "",
        "org/",
        "org/na me",
        ".",
    ],
)
def test_other_names_are_never_sent_to_the_hub(
    name: str, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "list_bundled", lambda: ("tiny-transformer",))
    if name == ".":
        assert resolve(name).is_dir()
    else:
        message = (
            r"is no model.*\(tiny-transformer\).*'organisation/name'" if name else "the name .* is empty"
        )
        with pytest.raises(CheckpointError, match=message):
            resolve(name)
    assert fake_hub.calls == []


def test_a_path_object_is_never_sent_to_the_hub(fake_hub: FakeHub) -> None:
    with pytest.raises(CheckpointError, match="'org/name' is no model"):
        resolve(Path("org/name"))
    assert fake_hub.calls == []


@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError("no network and not in the cache"),
        OfflineModeIsEnabled("HF_HUB_OFFLINE is set"),
        HFValidationError("not a repository"),
        ConnectionError("refused"),
    ],
)
def test_failed_downloads_name_the_repository(fake_hub: FakeHub, error: Exception) -> None:
    fake_hub.error = error
    with pytest.raises(CheckpointError, match=f"repository 'org/name' at revision 'main'.*{error}") as caught:
        resolve("org/name", "main")
    assert caught.value.__cause__ is error


def test_refuses_a_file_and_a_revision_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="is a file; give the directory"):
        resolve(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"revision is 'v2', but .* is not a Hugging Face repository"):
        resolve(tmp_path, "v2")


def test_recovers_a_directory_whose_replacement_was_killed(tmp_path: Path) -> None:
    (tmp_path / ".ckpt.previous").mkdir()
    assert resolve(tmp_path / "ckpt") == tmp_path / "ckpt"
    assert os.listdir(tmp_path) == ["ckpt"]


def test_offline_without_a_cached_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="cannot fetch the Hugging Face repository 'org/name'"):
        resolve("org/name")


def test_names_of_other_things_adopt_no_killed_replacement(
    tmp_path: Path, fake_hub: FakeHub, bundled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("org/.name.previous", ".tiny-mamba2.previous", ".mine.previous"):
        (tmp_path / name).mkdir(parents=True)
    assert resolve("org/name") == fake_hub.directory
    assert resolve("tiny-mamba2") == bundled / "tiny-mamba2"
    assert resolve("mine") == Path("mine")
    assert resolve(Path("org/name")) == Path("org/name")
