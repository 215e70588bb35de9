"""Draft heads where a model is expected, and models whose drafts are names."""

import shutil

import pytest

import jaxmodels as jm
from jaxmodels.checkpoints.draft_heads import forms
from jaxmodels.checkpoints.draft_heads.io import LAYOUTS
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.hub import list_bundled_drafters, resolve
from jaxmodels.checkpoints.huggingface import read_config
from jaxmodels.decoding import RoutedDrafts, Speculative
from jaxmodels.models.draft_heads import mtp_layouts


@pytest.mark.parametrize("name", list_bundled_drafters())
def test_a_head_is_no_model(name):
    for read in (jm.load, lambda name: read_config(resolve(name))):
        with pytest.raises(CheckpointError, match=r"describes a draft head \(.*give it as --draft"):
            read(name)


def test_every_form_that_is_read_is_known_by_its_configuration():
    known = [
        {"speculators_model_type": "eagle3"},
        {"speculators_model_type": "dflash"},
        {"model_type": "muse_glimmer_assistant"},
        {"dflash_config": {}},
        {"draft_vocab_size": 8},
        {"medusa_num_heads": 2},
        {"model_type": "medusa"},
    ]
    modules = {layout.architecture for layout in mtp_layouts.LAYOUTS.values()}
    assert [forms.form_of(values) for values in known] == [layout.name for layout in LAYOUTS[:-1]]
    assert {forms.form_of({"architectures": [name]}) for name in modules} == {LAYOUTS[-1].name}
    assert forms.form_of({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}) is None


@pytest.mark.sweep
def test_several_drafts_are_loaded_by_name():
    model = jm.load("tiny-qwen3")
    drafts = RoutedDrafts(drafts=("tiny-qwen3-draft", "tiny-mamba2"))
    ours = model.generate("import os", 6, Speculative(draft=drafts))
    assert ours.tokens.tolist() == model.generate("import os", 6).tokens.tolist()


@pytest.mark.sweep
def test_a_head_that_was_written_anew_is_read_anew(tmp_path):
    model = jm.load("tiny-qwen3")
    for name in ("tiny-qwen3-eagle3", "tiny-qwen3-mtp"):
        shutil.rmtree(tmp_path / "head", ignore_errors=True)
        shutil.copytree(resolve(name), tmp_path / "head")
        strategy = Speculative(draft=str(tmp_path / "head"), gamma=2)
        accepted = model.generate("import os", 6, strategy).stats.counters["accepted"]
        named = model.generate("import os", 6, Speculative(draft=name, gamma=2))
        assert accepted == named.stats.counters["accepted"]
