"""What is compared between a configuration and the stored tensors before anything is built."""

import contextlib
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from configurations.dense import GEMMA2, LLAMA
from configurations.hybrids import NEMOTRON_H
from configurations.linear import QWEN3_NEXT
from configurations.mixtures import DEEPSEEK_V3, GLM4_MOE
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

import jaxmodels as jm
from jaxmodels.checkpoints.names import base_prefix
from jaxmodels.layers.spec import walk
from jaxmodels.models.families import FAMILIES

UNTIED = LLAMA[0]


def changed(reference, directory, change_tensors=lambda tensors: None, **values):
    """A copy of the reference's checkpoint with other tensors and configuration keys."""
    shutil.copytree(reference.directory, directory)
    tensors = load_file(directory / "model.safetensors")
    change_tensors(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return directory


def test_a_stored_head_that_differs_from_the_tied_embedding_is_kept(build_reference, tmp_path):
    """As transformers does; and load and save keep it."""
    reference = build_reference(GEMMA2[0])
    assert reference.model.config.tie_word_embeddings

    def add_head(tensors):
        tensors["lm_head.weight"] = 0.7 * tensors["model.embed_tokens.weight"] + 0.1

    directory = changed(reference, tmp_path / "both", add_head)
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()
        expected = theirs(torch.tensor(reference.tokens), use_cache=False).logits.numpy()
    assert np.abs(expected - reference.logits).max() > 0.1
    with pytest.warns(UserWarning, match=r"'lm_head\.weight' is stored and differs from 'model\.embed_tok"):
        model = jm.load(directory)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(model(reference.tokens)) / scale, expected / scale, atol=1e-4)

    jm.save(model, tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["tie_word_embeddings"] is False
    again = jm.load(tmp_path / "saved")
    assert not again.config.tie_embeddings
    np.testing.assert_array_equal(again.params["head"]["weight"], model.params["head"]["weight"])
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", attn_implementation="eager")
    assert torch.equal(exported.lm_head.weight, theirs.lm_head.weight)


@pytest.mark.parametrize(
    ("dtype", "tied"), [(torch.float32, True), (torch.float64, True), (torch.bfloat16, False)]
)
def test_heads_of_another_dtype_are_compared_by_their_numbers(dtype, tied, build_reference, tmp_path):
    def add_head(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].to(dtype, copy=True)

    directory = changed(build_reference(GEMMA2[0]), tmp_path / "m", add_head)
    with contextlib.nullcontext() if tied else pytest.warns(UserWarning, match="the stored head is kept"):
        assert jm.load(directory).config.tie_embeddings is tied


def test_a_model_that_scores_texts_is_named(build_reference, tmp_path):
    config = AutoConfig.for_model("llama", **UNTIED.config, num_labels=1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    shutil.copy(build_reference(UNTIED).directory / "config.json", tmp_path)
    with pytest.raises(
        jm.CheckpointError, match=r"'score\.weight' of shape \[1, 24\] is the head of a reward model"
    ):
        jm.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v_head.summary.weight", r"'v_head\.summary\.weight' .* is a value head, .*pretrained_model"),
        ("classifier.dense.weight", "is the head of a reward model or classifier"),
        ("qa_outputs.weight", "is the head of a model that marks answers"),
        ("model.layers.0.self_attn.q_proj.lora_A.default.weight", "is part of an adapter; merge it"),
        ("model.layers.0.mlp.up_proj.qweight", "is part of a quantised weight, which no quantiz"),
        ("vision_tower.patch.weight", "sees or hears with; load.*text_only=True.*--text-only"),
        ("model.visual.blocks.0.attn.qkv.weight", "sees or hears with"),
        ("model.layers.0.extra.weight", r"of shape \[2\] is not part of the model .* \(family 'llama'\)"),
        ("unheard.of", "is not part of the model"),
    ],
)
def test_a_tensor_that_is_left_over_is_named(name, message, build_reference, tmp_path):
    directory = changed(build_reference(UNTIED), tmp_path / "m", lambda t: t.update({name: torch.ones(2)}))
    with pytest.raises(jm.CheckpointError, match=message):
        jm.load(directory)


def test_parts_that_see_are_left_out_on_request(build_reference, tmp_path):
    reference = build_reference(UNTIED)
    names = ("vision_tower.patch.weight", "multi_modal_projector.linear.weight", "unheard.of")

    def wrap(tensors):
        for name in list(tensors):
            tensors[f"language_model.{name}"] = tensors.pop(name)
        tensors.update({name: torch.ones(2) for name in names})

    directory = changed(reference, tmp_path / "m", wrap)
    ours, expected = jm.load(directory, text_only=True), jm.load(reference.directory)
    for (path, leaf), (_, wanted) in zip(walk(ours.params), walk(expected.params), strict=True):
        np.testing.assert_array_equal(leaf, wanted, err_msg=path)
    (tmp_path / "m" / "model.safetensors").unlink()
    shutil.copy(reference.directory / "model.safetensors", directory)
    changed_again = changed(reference, tmp_path / "n", lambda t: t.update({names[-1]: torch.ones(2)}))
    with pytest.raises(jm.CheckpointError, match=r"'unheard\.of'"):  # beside a model that is whole by itself
        jm.load(changed_again, text_only=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"num_hidden_layers": 80},
            r"config\.json: 'num_hidden_layers' is 80, but model\.safetensors holds layers up to number 1 ",
        ),
        ({"num_hidden_layers": 10**6}, "'num_hidden_layers' is 1000000, but model"),
        (
            {"num_hidden_layers": 1},
            r"'num_hidden_layers' is 1 and no 'num_nextn_predict_layers' is given, but model\.safetensors "
            r"holds 'model\.layers\.1\.[\w.]+' of layer 1",
        ),
        (
            {"hidden_size": 2**20, "head_dim": 6},
            r"'\S+\.weight' has shape \[.*\], the configuration asks for .*'hidden_size' is 1048576",
        ),
        ({"vocab_size": 10**7}, r"\[61, 24\], .* asks for \[10000000, 24\] \('vocab_size' is 10000000\)"),
        ({"intermediate_size": 10**9}, r"\('intermediate_size' is 1000000000\)"),
    ],
    ids=str,
)
def test_counts_that_disagree_with_the_tensors_are_named_at_once(values, message, build_reference, tmp_path):
    directory = changed(build_reference(UNTIED), tmp_path / "m", **values)
    with pytest.raises(jm.CheckpointError, match=message):
        jm.load(directory)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_only_floating_tensors_fill_weights(dtype, build_reference, tmp_path):
    name = "model.layers.1.mlp.up_proj.weight"

    def cast(tensors):
        tensors[name] = tensors[name].to(dtype)

    directory = changed(build_reference(UNTIED), tmp_path / "m", cast)
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(jm.CheckpointError, match=rf"'{name}' has dtype {kind}, .*quantization_config"):
        jm.load(directory)


def test_numbers_beyond_the_range_of_a_dtype_are_named(build_reference, tmp_path):
    def enlarge(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"][3, :2] = torch.tensor([7e4, -3e9])
        tensors["model.norm.weight"][0] = torch.inf  # as it is stored; the cast does not make it

    directory = changed(build_reference(UNTIED), tmp_path / "m", enlarge)
    message = r"'model\.layers\.1\.mlp\.up_proj\.weight' holds 2 numbers of up to 3e\+09, .*float16"
    with pytest.raises(jm.CheckpointError, match=message):
        jm.load(directory, dtype=jnp.float16)
    assert jm.load(directory, dtype="bfloat16").params["blocks"]["1"]["ffn"]["w_up"].dtype == jnp.bfloat16
    jm.save(jm.load(directory), tmp_path / "o", "orbax")
    with pytest.raises(jm.CheckpointError, match=r"'blocks/1/ffn/w_up' .*float16"):
        jm.load(tmp_path / "o", dtype=np.float16)


def further_tokens(reference, directory, front, **keys):
    """The checkpoint with a module for further tokens under names that begin with `front`, a copy of the last
    layer with other weights in a dtype of its own, and what stands around it."""
    generator = torch.Generator().manual_seed(0)
    base = base_prefix(FAMILIES[reference.case.family])
    last = f"{base}layers.{reference.model.config.num_hidden_layers - 1}."

    def add(tensors):
        module = {name.removeprefix(last): t for name, t in tensors.items() if name.startswith(last)}
        width = reference.model.config.hidden_size
        module |= {"enorm.weight": torch.ones(width), "eh_proj.weight": torch.ones(width, 2 * width)}
        module |= {
            "shared_head.head.weight": torch.ones(61, width),
            "shared_head.norm.weight": torch.ones(width),
        }
        for name, tensor in module.items():
            tensors[front + name] = torch.randn(tensor.shape, generator=generator).to(torch.bfloat16)
        tensors[front + "counts"] = torch.arange(3)

    return changed(reference, directory, add, **keys)


def stored_bytes(directory, front):
    tensors = load_file(directory / "model.safetensors")
    module = {name: tensor for name, tensor in tensors.items() if name.startswith(front)}
    return {name: (t.dtype, t.reshape(-1).view(torch.uint8).numpy().tobytes()) for name, t in module.items()}


ONE_LAYER = {"num_nextn_predict_layers": 1}


@pytest.mark.wide(every_run=2)
@pytest.mark.parametrize(
    ("case", "front", "keys", "format"),
    [
        (DEEPSEEK_V3[0], "model.layers.{L}.", ONE_LAYER, "hf"),
        (DEEPSEEK_V3[0], "model.layers.{L}.", ONE_LAYER, "orbax"),
        (GLM4_MOE[0], "model.layers.{L}.", ONE_LAYER, "hf"),
        (QWEN3_NEXT[0], "mtp.layers.0.", {}, "hf"),
        (NEMOTRON_H[0], "mtp.layers.0.", {**ONE_LAYER, "mtp_hybrid_override_pattern": "*E"}, "hf"),
    ],
    ids=lambda value: value.family if hasattr(value, "family") else None,
)
def test_modules_for_further_tokens_are_carried_bit_for_bit(
    case, front, keys, format, build_reference, tmp_path
):
    reference = build_reference(case)
    front = front.replace("{L}", str(reference.model.config.num_hidden_layers))
    directory = further_tokens(reference, tmp_path / "m", front, **keys)
    expected = stored_bytes(directory, front)
    model = jm.load(directory)
    assert len(expected) > 5 and set(model.extra_tensors.infos) == set(expected)
    shutil.rmtree(directory)  # the files stay open
    jm.save(model, tmp_path / "saved", format)
    if format == "orbax":
        jm.save(jm.load(tmp_path / "saved"), tmp_path / "again")
    written = tmp_path / ("again" if format == "orbax" else "saved")
    assert stored_bytes(written, front) == expected
    values = json.loads((written / "config.json").read_text())
    assert {key: values[key] for key in keys} == keys
    plain = jm.load(reference.directory)
    assert plain.extra_tensors is None
    for (path, leaf), (_, wanted) in zip(walk(jm.load(written).params), walk(plain.params), strict=True):
        np.testing.assert_array_equal(leaf, wanted, err_msg=path)


def test_a_further_layer_that_the_configuration_does_not_announce_is_named(build_reference, tmp_path):
    reference = build_reference(DEEPSEEK_V3[0])
    number = reference.model.config.num_hidden_layers + 1
    directory = further_tokens(reference, tmp_path / "m", f"model.layers.{number}.", **ONE_LAYER)
    message = rf"'num_nextn_predict_layers' is 1, but .*'model\.layers\.{number}\."
    with pytest.raises(jm.CheckpointError, match=message):
        jm.load(directory)
