import collections
import dataclasses
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from configurations import CASES, ELSEWHERE, ONE_OF_EACH_FAMILY, case_param
from configurations.case import hf_dict
from configurations.dense import DENSE, LLAMA, MISTRAL, QWEN2, QWEN3
from configurations.hybrids import HYBRIDS
from configurations.linear import LINEAR_HYBRIDS
from configurations.mixtures import MIXTURES
from configurations.state_space import MAMBA2, STATE_SPACE
from model_helpers import commit, forward, peek
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import jaxmodels as jm
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.rope import Rope
from jaxmodels.layers.spec import count_params, walk
from jaxmodels.models.families import FAMILIES
from jaxmodels.models.readers.dense import UNUSED

TOLERANCE = 1e-4
NEW_TOKENS = 64


@pytest.fixture(scope="module")
def loaded():
    """Our model of each reference, loaded once."""
    models = {}

    def load(reference):
        if reference.case.name not in models:
            models[reference.case.name] = jm.load(reference.directory)
        return models[reference.case.name]

    return load


# --- against transformers ----------------------------------------------------------------------------


def test_logits_are_those_of_transformers(reference, loaded):
    ours = np.asarray(loaded(reference)(reference.tokens))
    assert ours.dtype == np.float32
    scale = np.abs(reference.logits).max()
    np.testing.assert_allclose(ours / scale, reference.logits / scale, atol=TOLERANCE, rtol=0)


@pytest.mark.wide(every_run=3)
def test_greedy_decoding_is_that_of_transformers(causal_reference, loaded):
    """All prompts in one batch, their lengths different, against each one alone."""
    reference = causal_reference
    out = loaded(reference).generate(
        reference.prompts, NEW_TOKENS, jm.decoding.Autoregressive(), stop_tokens=[]
    )
    np.testing.assert_array_equal(out.tokens, reference.continuations)


@pytest.mark.wide(every_run=2)
def test_a_row_that_is_padded_is_that_row_alone(masked_reference, loaded):
    model, tokens = loaded(masked_reference), jnp.asarray(masked_reference.tokens)
    length = tokens.shape[1] - 9
    padded = forward(model.config, model.params, tokens, valid=jnp.asarray([tokens.shape[1], length]))
    alone = model(tokens[1:, :length])
    scale = np.abs(alone).max()
    np.testing.assert_allclose(padded[1:, :length] / scale, alone / scale, atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(padded[0] / scale, model(tokens)[0] / scale, atol=TOLERANCE, rtol=0)


def test_an_exported_model_has_the_published_tensors(published_reference, loaded, tmp_path):
    """Under the published names, bit for bit; and the configuration says the same."""
    jm.save(loaded(published_reference), tmp_path / "exported", format="hf")
    published, exported = published_reference.directory, tmp_path / "exported"
    expected, found = (load_file(directory / "model.safetensors") for directory in (published, exported))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    theirs, ours = (
        json.loads((directory / "config.json").read_text()) for directory in (published, exported)
    )
    assert jm.config_from_hf(ours) == jm.config_from_hf(theirs)
    assert {key for key in theirs if key in ours and ours[key] != theirs[key]} <= set(
        published_reference.case.rewritten
    )


def test_an_exported_model_is_the_same_in_transformers(native_reference, loaded, tmp_path):
    reference = native_reference
    jm.save(loaded(reference), tmp_path / "exported", format="hf")
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", output_loading_info=True)
    unused = FAMILIES[reference.case.family].is_unused  # tables that follow from the configuration
    report["missing_keys"] = {key for key in report["missing_keys"] if not unused(key)}
    assert not any(report.values()), report
    expected, found = reference.model.state_dict(), again.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    ours, theirs = again.config.to_dict(), reference.model.config.to_dict()
    written = json.loads((tmp_path / "exported" / "config.json").read_text())
    differing = {key for key in written if key in theirs and ours[key] != theirs[key]}
    assert differing <= {"architectures", *reference.case.rewritten}, {
        key: (ours[key], theirs[key]) for key in differing
    }


# What predicts next tokens is read in windows wherever it decodes: one of each kind of model is enough here.
KINDS = (DENSE[0], STATE_SPACE[0], MIXTURES[0], LINEAR_HYBRIDS[0], HYBRIDS[0])
IN_WINDOWS = [case for case in ONE_OF_EACH_FAMILY if case in KINDS or not case.is_causal]


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("case", [case_param(case) for case in IN_WINDOWS])
def test_any_split_into_windows_gives_the_logits_of_transformers(case, build_reference, loaded):
    """Tokens of models that are not causal see those of later windows no more."""
    reference = build_reference(case)
    model, ours = loaded(reference), []
    cache, start = model.config.init_cache(2, 32), 0
    sizes = np.random.default_rng(len(case.name)).permutation([1, 1, 5, 5, 5])
    for size in sizes:
        tokens = jnp.asarray(reference.tokens[:, start : start + size])
        logits, pending = peek(model.config, model.params, tokens, cache)
        cache, start = commit(model.config, pending), start + size
        ours.append(logits)
    scale = np.abs(reference.logits).max()
    expected = reference.logits_in_windows(sizes)
    np.testing.assert_allclose(np.concatenate(ours, 1) / scale, expected / scale, atol=TOLERANCE, rtol=0)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("case", [MAMBA2[1], LLAMA[4], MISTRAL[1]], ids=lambda case: case.name)
def test_a_prompt_alone_is_that_prompt_in_a_batch(case, build_reference, loaded):
    reference = build_reference(case)
    model, prompt = loaded(reference), reference.prompts[1]
    alone = model.generate([prompt], max_new_tokens=NEW_TOKENS, stop_tokens=[])
    np.testing.assert_array_equal(alone.tokens[0], reference.continuations[1])


# --- the original layout of Mamba-2 ------------------------------------------------------------------


def original_layout(reference, directory, **changes):
    """The same model as the package of Mamba-2's authors writes it."""
    config = reference.case.config
    directory.mkdir()
    values = {
        "d_model": config["hidden_size"],
        "d_intermediate": 0,
        "n_layer": config["num_hidden_layers"],
        "vocab_size": config["vocab_size"] - 3,
        "pad_vocab_size_multiple": config["vocab_size"],
        "ssm_cfg": {
            "layer": "Mamba2",
            "d_state": config["state_size"],
            "headdim": config["head_dim"],
            "ngroups": config["n_groups"],
            "chunk_size": config["chunk_size"],
            "bias": True,
        },
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "tie_embeddings": True,
        **changes,
    }
    (directory / "config.json").write_text(json.dumps(values))
    tensors = {
        name.replace("backbone.embeddings", "backbone.embedding"): tensor.clone().contiguous()
        for name, tensor in reference.model.state_dict().items()
    }
    save_file(tensors, directory / "model.safetensors")
    return tensors


def test_the_original_layout_of_mamba2(build_reference, tmp_path):
    reference = build_reference(next(case for case in MAMBA2 if case.name == "mamba2-groups_2_biases_tied"))
    tensors = original_layout(reference, tmp_path / "original")
    model = jm.load(tmp_path / "original")
    assert model.config.family == "mamba2-original"
    assert model.config.vocab_size == reference.case.config["vocab_size"]
    ours = np.asarray(model(reference.tokens))
    scale = np.abs(reference.logits).max()
    np.testing.assert_allclose(ours / scale, reference.logits / scale, atol=TOLERANCE, rtol=0)

    jm.save(model, tmp_path / "exported", format="hf")
    written = load_file(tmp_path / "exported" / "model.safetensors")
    assert set(tensors) - set(written) == {"lm_head.weight"}  # tied
    for name, tensor in written.items():
        assert torch.equal(tensor, tensors[name]), name
    assert jm.load(tmp_path / "exported").config == model.config


def test_the_published_configuration_of_mamba2():
    """state-spaces/mamba2-130m as it is on the hub."""
    config = jm.config_from_hf(
        {
            "d_model": 768,
            "d_intermediate": 0,
            "n_layer": 24,
            "vocab_size": 50277,
            "ssm_cfg": {"layer": "Mamba2"},
            "attn_layer_idx": [],
            "attn_cfg": {},
            "rms_norm": True,
            "residual_in_fp32": True,
            "fused_add_norm": True,
            "pad_vocab_size_multiple": 16,
            "tie_embeddings": True,
        }
    )
    mixer = config.blocks[0].mixer
    assert (config.vocab_size, len(config.blocks), config.tie_embeddings) == (50288, 24, True)
    assert (mixer.num_heads, mixer.head_dim, mixer.state_dim, mixer.num_groups) == (24, 64, 128, 1)
    assert count_params(config.spec()) == 128_989_632
    assert jm.config_from_hf(jm.config_to_hf(config)) == config


# --- configurations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_configurations_survive_the_round_trip(case):
    config = jm.config_from_hf(hf_dict(case))
    assert config.family == case.family
    written = json.loads(json.dumps(jm.config_to_hf(config)))
    assert jm.config_from_hf(written) == config
    hash(config)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_row_fills_each_parameter(case):
    config = jm.config_from_hf(hf_dict(case))
    family = FAMILIES[case.family]
    paths = [path for path, _ in walk(config.spec())]
    filled = collections.Counter(row.ours for row in family.table(config) if row.ours in set(paths))
    assert filled == dict.fromkeys(paths, 1)
    assert [row.ours for row, _ in family.rows(config)] == paths


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_tensors_are_invertible(case):
    """Our parameters as their tensors and back, in every share."""
    config = jm.config_from_hf(hf_dict(case))
    rng = np.random.default_rng(0)
    ours = {path: rng.standard_normal(param.shape) for path, param in walk(config.spec())}
    again = {path: np.full(array.shape, np.nan) for path, array in ours.items()}
    for tensor in FAMILIES[case.family].tensors(config).values():
        theirs = tensor.export(ours)
        assert theirs.shape == tensor.shape
        for part in tensor.parts:
            leaf = again[part.row.ours]
            target = leaf if part.expert is None else leaf[part.expert]
            target[...] = part.row.load(part.cut(theirs), part.shape)
    for path, array in ours.items():
        np.testing.assert_array_equal(again[path], array)


def test_a_parameter_without_a_row_is_named():
    family = FAMILIES["llama"]
    lacking = type(family)(**{**vars(family), "weights": family.weights[1:]})
    with pytest.raises(KeyError, match=r"family 'llama' has no weight row for parameter 'embed/weight'"):
        list(lacking.rows(jm.config_from_hf(hf_dict(LLAMA[0]))))


def test_the_frequencies_of_old_checkpoints_are_not_needed():
    for name in ("model.layers.11.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"):
        assert sum(re.fullmatch(pattern, name) is not None for pattern in UNUSED) == 1
        assert FAMILIES["llama"].is_unused(name)
    assert not FAMILIES["llama"].is_unused("model.layers.0.self_attn.q_proj.weight")


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_keys_that_old_configurations_lack(family):
    """Their defaults are those of the configuration classes."""
    values = {
        "model_type": family,
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    config = jm.config_from_hf(values)
    mixer, ffn = config.blocks[0].mixer, config.blocks[0].ffn
    assert mixer.head_dim == (128 if family == "qwen3" else 4)
    assert mixer.rope == Rope(rotary_dim=mixer.head_dim, theta=10000.0)
    assert mixer.sliding_window == (4096 if family == "mistral" else None)
    assert (config.final_norm.eps, ffn.activation, config.tie_embeddings) == (1e-6, "silu", False)
    assert mixer.qkv_bias == (family == "qwen2")
    assert not mixer.out_bias


def test_windows_of_qwen_by_either_key():
    base = {**hf_dict(QWEN2[0]), "use_sliding_window": True, "sliding_window": 6}
    base.pop("layer_types", None)
    base["max_window_layers"] = 1
    windows = [block.mixer.sliding_window for block in jm.config_from_hf(base).blocks]
    assert windows == [None, 6]
    del base["sliding_window"]
    windows = [block.mixer.sliding_window for block in jm.config_from_hf(base).blocks]
    assert windows == [None, 4096]


DENSE, STATE_SPACE = hf_dict(LLAMA[0]), hf_dict(MAMBA2[0])
ORIGINAL = {"d_model": 16, "n_layer": 1, "vocab_size": 8, "ssm_cfg": {"layer": "Mamba2", "headdim": 8}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "t5"}, r"'model_type' is 't5'; the families are: .*llama, .*mamba, mamba2"),
        ({}, r"'model_type' is None; the families are"),
        ({**DENSE, "num_experts": 4}, r"unknown config keys \{'num_experts': 4\}"),
        ({**DENSE, "hidden_act": "gleu"}, r"'hidden_act' has the value 'gleu'.*supported: 'gelu'"),
        ({**DENSE, "hidden_size": "24"}, r"key 'hidden_size' must be a whole number, got '24'"),
        ({**DENSE, "hidden_size": True}, r"key 'hidden_size' must be a whole number, got True"),
        ({**DENSE, "num_hidden_layers": 0}, r"key 'num_hidden_layers' must be .* >= 1.*got 0"),
        ({**DENSE, "num_hidden_layers": -1}, r"key 'num_hidden_layers' must be a whole number >= 1.*got -1"),
        ({**DENSE, "num_key_value_heads": 3}, r"'num_key_value_heads' must divide 'num_attention_heads' = 4"),
        ({**DENSE, "attention_bias": "yes"}, r"key 'attention_bias' must be bool, got 'yes'"),
        ({**DENSE, "rope_parameters": {"rope_type": "mrope"}}, r"'llama'.*rope_type 'mrope' is not known"),
        (
            {**DENSE, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            r"'partial_rotary_factor'.*0\.5",
        ),
        (
            {**DENSE, "rope_parameters": None, "rope_scaling": "linear"},
            r"must be a mapping or null, got 'linear'",
        ),
        ({**DENSE, "partial_rotary_factor": 0.5}, r"'partial_rotary_factor'.*0\.5"),
        (
            {k: v for k, v in DENSE.items() if k != "vocab_size"},
            r"key 'vocab_size' is missing; expected a whole number",
        ),
        ({**hf_dict(MISTRAL[0]), "sliding_window": 0}, r"'sliding_window' must be a whole number >= 1"),
        (
            {**hf_dict(QWEN2[1]), "layer_types": ["full_attention"]},
            r"'layer_types' must hold 3 of .*, got .*\[",
        ),
        (
            {**hf_dict(QWEN2[0]), "layer_types": ["linear_attention"] * 2},
            r"'layer_types' must hold 2 of .*\['linear_attention', 'linear_attention'\]",
        ),
        (
            {**hf_dict(QWEN2[0]), "layer_types": ["sliding_attention"] * 2},
            r"'layer_types' asks for sliding_attention but no sliding window is in use",
        ),
        ({**STATE_SPACE, "rms_norm": False}, r"'rms_norm' has the value False.*supported: True"),
        ({**STATE_SPACE, "expand": 3}, r"hidden_size \* expand = 24 \* 3 must equal .* = 8 \* 6"),
        ({**STATE_SPACE, "hidden_act": "gelu"}, r"'hidden_act' has the value 'gelu'.*supported: 'silu'"),
        ({**STATE_SPACE, "time_step_limit": [0.1]}, r"'time_step_limit' must be \[low, high\], got \[0.1\]"),
        ({**STATE_SPACE, "time_step_limit": ["a", 1]}, r"'time_step_limit' must be a number, got 'a'"),
        ({**STATE_SPACE, "n_groups": 3}, r"n_groups=3 must divide num_heads=8"),
        (
            {**STATE_SPACE, "num_hidden_layers": 0},
            r"key 'num_hidden_layers' must be .* >= 1.*got 0",
        ),
        ({**ORIGINAL, "ssm_cfg": {"layer": "Mamba1"}}, r"'layer' must be 'Mamba2', got 'Mamba1'"),
        ({**ORIGINAL, "ssm_cfg": {}}, r"ssm_cfg: key 'layer' must be 'Mamba2', got None"),
        ({**ORIGINAL, "attn_layer_idx": [3]}, r"'attn_layer_idx' has the value \[3\]"),
        ({**ORIGINAL, "d_intermediate": 64}, r"'d_intermediate' has the value 64"),
        ({**ORIGINAL, "n_layer": 0}, r"key 'n_layer' must be a whole number >= 1.*got 0"),
        (
            {**ORIGINAL, "ssm_cfg": {**ORIGINAL["ssm_cfg"], "headdim": 5}},
            r"ssm_cfg.headdim=5 must divide expand \* d_model = 32",
        ),
        (
            {**ORIGINAL, "ssm_cfg": {**ORIGINAL["ssm_cfg"], "d_foo": 5}},
            r"\{'ssm_cfg/d_foo': 5\}",
        ),
    ],
)
def test_what_is_not_understood_is_refused_by_name(values, message):
    with pytest.raises(jm.ConfigError, match=message):
        jm.config_from_hf(values)


def changed_first_block(config, **changes):
    first, *rest = config.blocks
    return dataclasses.replace(
        config, blocks=(dataclasses.replace(first, mixer=dataclasses.replace(first.mixer, **changes)), *rest)
    )


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        (LLAMA[0], {"sliding_window": 8}),
        (LLAMA[0], {"softcap": 30.0}),
        (MISTRAL[1], {"sliding_window": 8}),
        (QWEN2[1], {"sliding_window": 8}),
        (QWEN3[0], {"sink_logits": True}),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else "_".join(value),
)
def test_a_model_that_its_family_cannot_express_is_not_written(case, changes):
    config = jm.config_from_hf(hf_dict(case))
    with pytest.raises(jm.ConfigError, match=rf"'{case.family}' layout cannot express.*'blocks'"):
        jm.config_to_hf(changed_first_block(config, **changes))
    with pytest.raises(jm.ConfigError, match=r"cannot express.*'residual_dtype'"):
        jm.config_to_hf(dataclasses.replace(config, residual_dtype="float32"))


def test_a_state_space_model_that_its_layout_cannot_express_is_not_written():
    config = jm.config_from_hf(hf_dict(MAMBA2[0]))
    with pytest.raises(jm.ConfigError, match="one kind of SSD block"):
        jm.config_to_hf(changed_first_block(config, conv_width=3))
    norm = dataclasses.replace(config.blocks[0].mixer.norm, order="norm_then_gate")
    block = dataclasses.replace(
        config.blocks[0], mixer=dataclasses.replace(config.blocks[0].mixer, norm=norm)
    )
    with pytest.raises(jm.ConfigError, match="cannot express the gated norm"):
        jm.config_to_hf(dataclasses.replace(config, blocks=(block,) * 2))
    assert jm.config_to_hf(dataclasses.replace(config, max_positions=64)) == jm.config_to_hf(config)


def test_a_published_configuration_with_keys_that_nothing_reads():
    """mistralai/Mamba-Codestral-7B-v0.1 as it is on the hub."""
    config = jm.config_from_hf(
        {
            "architectures": ["Mamba2ForCausalLM"],
            "bos_token_id": 0,
            "chunk_size": 256,
            "conv_kernel": 4,
            "eos_token_id": 0,
            "expand": 2,
            "head_dim": 64,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "initializer_range": 0.1,
            "intermediate_size": 8192,
            "layer_norm_epsilon": 1e-05,
            "model_type": "mamba2",
            "n_groups": 8,
            "norm_before_gate": True,
            "num_heads": 128,
            "num_hidden_layers": 64,
            "pad_token_id": 0,
            "rescale_prenorm_residual": False,
            "residual_in_fp32": True,
            "rms_norm": True,
            "state_size": 128,
            "tie_word_embeddings": False,
            "time_step_floor": 0.0001,
            "time_step_init_scheme": "random",
            "time_step_limit": [0.0, float("inf")],
            "time_step_max": 0.1,
            "time_step_min": 0.001,
            "time_step_rank": 256,
            "time_step_scale": 1.0,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.44.0.dev0",
            "use_bias": False,
            "use_cache": True,
            "use_conv_bias": True,
            "vocab_size": 32768,
        }
    )
    assert config.blocks[0].mixer.norm.order == "gate_then_norm"
    assert count_params(config.spec()) == 7_285_403_648
    assert jm.config_from_hf(jm.config_to_hf(config)) == config


def test_a_model_without_a_family_has_no_hugging_face_form():
    from model_helpers import ARCHITECTURES

    with pytest.raises(jm.ConfigError, match=r"config.family is None; to write it, set one of: .*llama"):
        jm.config_to_hf(ARCHITECTURES["attention"])


def test_the_table_has_three_configurations_of_every_family():
    counts = collections.Counter(case.family for case in CASES)
    assert set(counts) | set(ELSEWHERE) == set(jm.list_families())
    assert min(counts.values()) >= 3
    assert len({case.name for case in CASES}) == len(CASES)


def test_bfloat16_stays_close(build_reference):
    """The same checkpoint in half the memory: the numbers of float32 to about two digits."""
    reference = build_reference(MAMBA2[0])
    model = jm.load(reference.directory, dtype="bfloat16")
    dtypes = {path: leaf.dtype for path, leaf in walk(model.params)}
    assert dtypes["blocks/0/mixer/w_x"] == jnp.bfloat16
    assert dtypes["blocks/0/mixer/a_log"] == jnp.float32
    ours = np.asarray(model(reference.tokens))
    assert ours.dtype == np.float32
    error = np.sqrt(((ours - reference.logits) ** 2).mean()) / reference.logits.std()
    assert 1e-4 < error < 0.05


def test_attention_is_what_the_dense_families_are_made_of():
    for case in (*LLAMA, *MISTRAL, *QWEN2, *QWEN3):
        config = jm.config_from_hf(hf_dict(case))
        assert all(isinstance(block.mixer, Attention) for block in config.blocks)


@pytest.mark.parametrize("config", [None, {}, 3])
def test_what_is_no_model_is_not_written(config):
    with pytest.raises(jm.ConfigError, match="config must be a Decoder, as config_from_hf gives, got"):
        jm.config_to_hf(config)


def test_keys_and_switches_of_another_kind_are_named():
    with pytest.raises(jm.ConfigError, match="config: its keys must be texts, got 3"):
        jm.config_from_hf({"model_type": "llama", 3: 1})
    with pytest.raises(jm.ConfigError, match="text_only must be True or False, got 'yes'"):
        jm.config_from_hf({"model_type": "llama"}, text_only="yes")


def test_a_layout_for_other_layers_is_refused():
    with pytest.raises(jm.ConfigError, match=r"'llama' layout cannot express .* layers are \['SSDMixer'\]"):
        jm.config_to_hf(dataclasses.replace(jm.load("tiny-mamba2").config, family="llama"))
