"""Modules for multi-token prediction of published checkpoints: what they compute, and that saving keeps them.

`transformers` drafts with DeepSeek-V3's and GLM-4.5's; of the others it has the layers that they are made of.
"""

import functools
import json
import shutil

import jax.numpy as jnp
import mtp_references
import numpy as np
import pytest
import torch
from model_helpers import quick_jit
from mtp_references import DEEPSEEK, GLM, MTP_CASES, NEMOTRON_H, QWEN3_NEXT, without_modules
from transformers import AutoModelForCausalLM

import jaxmodels as jm
from jaxmodels.decoding import MTP, Speculative
from jaxmodels.layers.spec import walk
from jaxmodels.models.draft_heads.feature_head import Target

PROMPTS = [[1, 2, 3, 4, 5], [6, 6, 6, 2], [3, 2, 4, 6, 1, 2, 2], [5, 1]]
NEW = 24


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """A function from a case to its reference."""

    @functools.cache
    def built(family):
        mtp = next(mtp for mtp in MTP_CASES if mtp.case.family == family)
        return mtp_references.build(mtp, tmp_path_factory.mktemp(family) / "m")

    return lambda mtp: built(mtp.case.family)


def predictions(model, tokens):
    """Each module's logits over whole sequences."""
    head, params = model.mtp

    @quick_jit
    def predict(weights, params, tokens):
        hidden = model.config.forward_scored(weights, tokens).hidden
        return [p.logits for p in head.forward(params, Target(model.config, weights), tokens, hidden)]

    return predict(model.params, params, jnp.asarray(tokens))


@pytest.mark.wide(every_run=2)
@pytest.mark.parametrize("mtp", MTP_CASES, ids=lambda mtp: mtp.case.family)
def test_modules_compute_what_their_layers_do(mtp, build, tmp_path):
    reference = build(mtp)
    model = jm.load(reference.directory)
    assert set(model.extra_tensors.infos) == set(reference.names)
    assert len(model.mtp[0].modules) == mtp.count
    for k, (ours, theirs) in enumerate(
        zip(predictions(model, reference.tokens), reference.logits, strict=True)
    ):
        known = theirs.shape[1] - 1 - k
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(np.asarray(ours)[:, :known] / scale, theirs[:, :known] / scale, atol=1e-4)


@pytest.mark.parametrize("mtp", [GLM, NEMOTRON_H], ids=lambda mtp: mtp.case.family)
def test_a_saved_model_has_its_modules_and_their_keys(mtp, build, tmp_path):
    reference = build(mtp)
    model = jm.load(reference.directory)
    jm.save(model, tmp_path / "saved")
    values = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert {key: values[key] for key in mtp.keys} == mtp.keys
    again = jm.load(tmp_path / "saved")
    assert again.mtp[0] == model.mtp[0]
    for (path, ours), (_, first) in zip(walk(again.mtp[1]), walk(model.mtp[1]), strict=True):
        np.testing.assert_array_equal(ours, first, err_msg=path)


@pytest.mark.sweep
@pytest.mark.parametrize("mtp", [DEEPSEEK, GLM], ids=lambda mtp: mtp.case.family)
def test_as_many_drafts_are_accepted_as_in_transformers(mtp, build, monkeypatch):
    """One module, and two that take turns: the tokens, and how often the model is asked for them."""
    reference = build(mtp)
    # transformers finds the modules by patterns that hold the numbers of the published models' layers.
    patterns = [r"model\.layers\.[23]\..*"]
    monkeypatch.setattr(type(reference.model), "_keys_to_ignore_on_load_unexpected", patterns)
    theirs = AutoModelForCausalLM.from_pretrained(reference.directory, attn_implementation="eager").eval()
    theirs.generation_config.eos_token_id = None
    ours = jm.load(reference.directory).generate(
        PROMPTS, NEW, Speculative(draft=MTP(size=mtp.count)), stop_tokens=[]
    )
    calls = []
    theirs.get_decoder().register_forward_hook(lambda *args: calls.append(1))
    total = 0
    for row, prompt in zip(ours.tokens, PROMPTS, strict=True):
        out = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NEW,
            do_sample=False,
            use_mtp=True,
            pad_token_id=0,
        )
        np.testing.assert_array_equal(row, out[0, len(prompt) :])
        total += len(calls) - 1  # the first one reads the prompt
        calls.clear()
    assert ours.stats.counters["calls"] == total
    assert ours.stats.counters["accepted"] > 0


@pytest.mark.sweep
@pytest.mark.parametrize("mtp", [QWEN3_NEXT, NEMOTRON_H], ids=lambda mtp: mtp.case.family)
def test_a_module_drafts_on_by_itself(mtp, build):
    model = jm.load(build(mtp).directory)
    plain = model.generate(PROMPTS, NEW, stop_tokens=[])
    ours = model.generate(PROMPTS, NEW, Speculative(draft=MTP(size=2)), stop_tokens=[])
    np.testing.assert_array_equal(ours.tokens, plain.tokens)
    assert ours.stats.counters["drafted"] == 2 * ours.stats.counters["calls"] > 0


def test_a_model_without_modules_is_refused(build, tmp_path):
    strategy = Speculative(draft=MTP(size=1))
    lost = jm.load(without_modules(build(GLM), tmp_path / "lost"))
    message = r"glm4_moe model holds no weights .*'model\.layers\.2\.enorm\.weight' \('num_next.*' is 2\)"
    with pytest.raises(ValueError, match=message):
        lost.generate([[1]], 2, strategy)
    with pytest.raises(ValueError, match="mamba2 models have no modules for multi-token prediction"):
        jm.load("tiny-mamba2").generate([[1]], 2, strategy)


def test_incomplete_and_unknown_modules_are_named(build, tmp_path):
    reference = build(QWEN3_NEXT)

    def changed(name, change):
        from safetensors.torch import load_file, save_file

        shutil.copytree(reference.directory, tmp_path / name)
        tensors = load_file(tmp_path / name / "model.safetensors")
        change(tensors)
        save_file(tensors, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        return jm.load(tmp_path / name)

    with pytest.raises(jm.CheckpointError, match=r"'mtp\.fc\.weight'"):
        _ = changed("missing", lambda tensors: tensors.pop("mtp.fc.weight")).mtp
    with pytest.raises(jm.CheckpointError, match=r"'mtp\.fc\.weight' has shape \[24, 24\], .* \[24, 48\]"):
        _ = changed("shape", lambda t: t.update({"mtp.fc.weight": torch.ones(24, 24)})).mtp
    with pytest.raises(jm.CheckpointError, match=r"'mtp\.gate\.weight' of shape \[3\] is not part of"):
        _ = changed("more", lambda t: t.update({"mtp.gate.weight": torch.ones(3)})).mtp


@pytest.mark.parametrize("mtp", [GLM], ids=lambda mtp: mtp.case.family)
def test_modules_alone_are_a_draft_head(mtp, build, tmp_path):
    model = jm.load(build(mtp).directory)
    head, params = model.mtp
    jm.save_drafter(MTP(head=head, params=params), tmp_path / "head")
    drafter = jm.load_drafter(tmp_path / "head", model, size=2)
    assert drafter.head == head and drafter.size == 2
    for (path, ours), (_, first) in zip(walk(drafter.params), walk(params), strict=True):
        np.testing.assert_array_equal(ours, first, err_msg=path)
    with pytest.raises(jm.CheckpointError, match="width 24, and those of the target have 256"):
        jm.load_drafter(tmp_path / "head", jm.load("tiny-mamba2"))
