"""BERT and ModernBERT against transformers' masked language models, and what their checkpoints vary in."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from model_helpers import forward
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForMaskedLM

import jaxmodels as jm
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.spec import count_params
from jaxmodels.models.filling import MaskFilling
from jaxmodels.models.readers.dense import FULL, SLIDING

TOLERANCE = 1e-4
SIZES = {
    "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 40, "max_position_embeddings": 48, "pad_token_id": 0, "mask_token_id": 5,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
LENGTHS = np.array([33, 20, 1])

BERT = {
    "three_segments": {"type_vocab_size": 3},
    "relu_eps": {"hidden_act": "relu", "layer_norm_eps": 1e-3, "num_attention_heads": 3},
    "untied_one_segment": {"tie_word_embeddings": False, "type_vocab_size": 1},
}
MODERNBERT = {
    "windows": {"local_attention": 8, "global_attn_every_n_layers": 2},
    "biases_untied": {
        "local_attention": 6, "norm_bias": True, "attention_bias": True, "mlp_bias": True,
        "classifier_bias": True, "tie_word_embeddings": False,
    },
    "thetas_no_head_bias": {
        "decoder_bias": False, "hidden_activation": "silu", "local_attention": 4, "norm_eps": 1e-3,
        "layer_types": [SLIDING, FULL, SLIDING], "global_rope_theta": 500.0, "local_rope_theta": 30.0,
    },
}  # fmt: skip
CASES = [
    *(pytest.param("bert", changes, id=f"bert-{name}") for name, changes in BERT.items()),
    *(pytest.param("modernbert", changes, id=f"modernbert-{name}") for name, changes in MODERNBERT.items()),
]


def build(family, changes, directory):
    """A model of transformers whose parameters are all away from their initial values, saved."""
    config = AutoConfig.for_model(family, **{**SIZES, **changes})
    model = AutoModelForMaskedLM.from_config(config, attn_implementation="eager").eval()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.5 if parameter.ndim == 1 or "embeddings" in name else 1.5 * parameter.shape[-1] ** -0.5
            centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.copy_(centre + scale * torch.tensor(rng.standard_normal(parameter.shape)))
    model.save_pretrained(directory)
    return model


def draw(seed=1):
    return np.random.default_rng(seed).integers(61, size=(3, 33))


def assert_close(ours, theirs, places=slice(None)):
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(
        np.asarray(ours)[places] / scale, theirs[places] / scale, atol=TOLERANCE, rtol=0
    )


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(("family", "changes"), CASES)
def test_logits_and_export_are_those_of_transformers(family, changes, tmp_path):
    """Whole rows; rows that are padded on the right and on the left, whose positions count real tokens."""
    theirs, tokens = build(family, changes, tmp_path / "theirs"), draw()
    model = jm.load(tmp_path / "theirs")
    assert (model.config.mask, model.config.filling) == (BIDIRECTIONAL, MaskFilling(mask_token=5))
    with torch.no_grad():
        assert_close(model(tokens), theirs(torch.tensor(tokens)).logits.numpy())
        right = np.arange(33) < LENGTHS[:, None]
        wanted = theirs(torch.tensor(tokens), attention_mask=torch.tensor(right.astype(int))).logits.numpy()
        ours = forward(model.config, model.params, tokens, valid=jnp.asarray(right))
        assert_close(ours, wanted, right)
        left = right[:, ::-1]
        shifted = np.stack([np.roll(row, 33 - n) for row, n in zip(tokens, LENGTHS, strict=True)])
        ours = forward(model.config, model.params, shifted, valid=jnp.asarray(left))
        np.testing.assert_allclose(np.asarray(ours)[left], wanted[right], atol=1e-4 * np.abs(wanted).max())

    jm.save(model, tmp_path / "exported")
    again, report = AutoModelForMaskedLM.from_pretrained(tmp_path / "exported", output_loading_info=True)
    expected, found = theirs.state_dict(), again.state_dict()
    unread = set()
    if family == "bert" and not again.config.tie_word_embeddings:
        unread = {"cls.predictions.bias"}  # which has no part in an untied head
    assert {name for names in report.values() for name in names} <= unread
    for name in expected.keys() - unread:
        assert torch.equal(found[name], expected[name]), name
    written = json.loads((tmp_path / "exported" / "config.json").read_text())
    ours, wanted = again.config.to_dict(), theirs.config.to_dict()
    assert {key for key in written if key in wanted and ours[key] != wanted[key]} == set()
    assert jm.load(tmp_path / "exported").config == model.config


def test_maskgit_is_a_bert_without_segments(tmp_path):
    """Whose mask token is the last of the vocabulary where the file does not say it."""
    theirs, tokens = build("bert", {"type_vocab_size": 1, "layer_norm_eps": 1e-5}, tmp_path), draw()
    segments = "bert.embeddings.token_type_embeddings.weight"
    stored = load_file(tmp_path / "model.safetensors")
    theirs.get_parameter(segments).data.zero_()
    del stored[segments]
    save_file(stored, tmp_path / "model.safetensors")
    values = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "maskgit"}
    del values["type_vocab_size"], values["mask_token_id"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    model = jm.load(tmp_path)
    assert model.config.filling == MaskFilling(mask_token=60)
    with torch.no_grad():
        assert_close(model(tokens), theirs(torch.tensor(tokens)).logits.numpy())
    jm.save(model, tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == stored.keys() and all(torch.equal(again[name], stored[name]) for name in again)
    assert jm.load(tmp_path / "again").config == model.config


def test_segments_are_given_with_the_embeddings(tmp_path):
    theirs, tokens = build("bert", BERT["three_segments"], tmp_path), draw()
    segments = np.random.default_rng(2).integers(3, size=tokens.shape)
    model = jm.load(tmp_path)
    embeddings = model.config.embeddings(model.params, jnp.asarray(tokens), jnp.asarray(segments))
    ours = forward(model.config, model.params, embeddings)
    with torch.no_grad():
        wanted = theirs(torch.tensor(tokens), token_type_ids=torch.tensor(segments)).logits.numpy()
    assert_close(ours, wanted)
    plain = model.config.embeddings(model.params, jnp.asarray(tokens))
    np.testing.assert_array_equal(forward(model.config, model.params, plain), model(tokens))


def test_segments_for_a_model_without_such_are_refused(tmp_path):
    build("modernbert", MODERNBERT["windows"], tmp_path)
    model, tokens = jm.load(tmp_path), jnp.zeros((1, 3), jnp.int32)
    with pytest.raises(ValueError, match="segments: the model has no embedding of segments"):
        model.config.embeddings(model.params, tokens, tokens)


def test_a_checkpoint_of_the_first_release(tmp_path):
    """Norms named gamma and beta, a tied head stored, and the pooler and second head of training."""
    theirs, tokens = build("bert", {}, tmp_path), draw()
    stored = load_file(tmp_path / "model.safetensors")
    stored = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): tensor
        for name, tensor in stored.items()
    }
    stored["cls.predictions.decoder.weight"] = stored["bert.embeddings.word_embeddings.weight"].clone()
    stored["cls.predictions.decoder.bias"] = stored["cls.predictions.bias"].clone()
    stored["bert.embeddings.position_ids"] = torch.arange(48)[None]
    for name in ("bert.pooler.dense", "cls.seq_relationship"):
        stored |= {f"{name}.weight": torch.ones(2, 24), f"{name}.bias": torch.ones(2)}
    save_file(stored, tmp_path / "model.safetensors")
    with torch.no_grad():
        assert_close(jm.load(tmp_path)(tokens), theirs(torch.tensor(tokens)).logits.numpy())


PUBLISHED_MODERNBERT = {
    "architectures": ["ModernBertForMaskedLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 50281, "classifier_activation": "gelu", "classifier_bias": False,
    "classifier_dropout": 0.0, "classifier_pooling": "mean", "cls_token_id": 50281, "decoder_bias": True,
    "deterministic_flash_attn": False, "embedding_dropout": 0.0, "eos_token_id": 50282,
    "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "gradient_checkpointing": False,
    "hidden_activation": "gelu", "hidden_size": 768, "initializer_cutoff_factor": 2.0,
    "initializer_range": 0.02, "intermediate_size": 1152, "layer_norm_eps": 1e-05, "local_attention": 128,
    "local_rope_theta": 10000.0, "max_position_embeddings": 8192, "mlp_bias": False, "mlp_dropout": 0.0,
    "model_type": "modernbert", "norm_bias": False, "norm_eps": 1e-05, "num_attention_heads": 12,
    "num_hidden_layers": 22, "pad_token_id": 50283, "position_embedding_type": "absolute",
    "sep_token_id": 50282, "tie_word_embeddings": True, "torch_dtype": "float32",
    "transformers_version": "4.47.0.dev0", "vocab_size": 50368,
}  # fmt: skip
PUBLISHED_BERT = {
    "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768,
    "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512, "model_type": "bert", "num_attention_heads": 12,
    "num_hidden_layers": 12, "pad_token_id": 0, "position_embedding_type": "absolute",
    "transformers_version": "4.6.0.dev0", "type_vocab_size": 2, "use_cache": True, "vocab_size": 30522,
}  # fmt: skip


@pytest.mark.parametrize(
    ("values", "mask_token", "parameters"),
    [(PUBLISHED_BERT, 103, 109_514_298), (PUBLISHED_MODERNBERT, 50284, 149_655_232)],
    ids=["bert-base-uncased", "ModernBERT-base"],
)
def test_the_published_base_models(values, mask_token, parameters):
    """The keys of the configurations on the hub, and the numbers of parameters that transformers counts."""
    config = jm.config_from_hf(values, strict=True)
    assert config.filling == MaskFilling(mask_token=mask_token)
    assert count_params(config.spec()) == parameters
    with torch.device("meta"):
        theirs = AutoModelForMaskedLM.from_config(AutoConfig.for_model(**values))
    assert sum(parameter.numel() for parameter in theirs.parameters()) == parameters
    assert jm.config_from_hf(jm.config_to_hf(config)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**PUBLISHED_BERT, "is_decoder": True}, "'is_decoder' has the value True.*supported: False"),
        (
            {**PUBLISHED_BERT, "position_embedding_type": "relative_key"},
            "'position_embedding_type' has the value 'relative_key'.*supported: 'absolute'",
        ),
        (
            {**PUBLISHED_BERT, "vocab_size": 30},
            "key 'mask_token_id' is missing.*= 30;.*103",
        ),
        ({**PUBLISHED_BERT, "mask_token_id": 30522}, "key 'mask_token_id' is 30522.*= 30522;"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(values, message):
    with pytest.raises(jm.ConfigError, match=message):
        jm.config_from_hf(values)


def test_a_model_that_its_layout_cannot_express_is_not_written():
    config = jm.config_from_hf(PUBLISHED_BERT)
    with pytest.raises(jm.ConfigError, match=r"'bert' layout cannot express.*'embed_scale'"):
        jm.config_to_hf(dataclasses.replace(config, embed_scale=2.0))
    with pytest.raises(jm.ConfigError, match="'modernbert' layout cannot express"):
        jm.config_to_hf(dataclasses.replace(config, family="modernbert"))
