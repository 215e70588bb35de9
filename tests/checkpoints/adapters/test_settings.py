"""What ``adapter_config.json`` may say; other types of adapters are refused by name."""

import json

import pytest
from adapters_of_peft import base_model

from jaxmodels.checkpoints.adapters.settings import read_settings
from jaxmodels.checkpoints.errors import CheckpointError


def write(directory, values):
    (directory / "adapter_config.json").write_text(json.dumps(values))
    return directory


PLAIN = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "base_model_name_or_path": "org/base"}


def test_scales(tmp_path):
    values = PLAIN | {"rank_pattern": {"up_proj": 4}, "alpha_pattern": {"layers.0.mlp.up_proj": 2}}
    plain = read_settings(write(tmp_path, values))
    assert plain.scale_of("model.layers.0.self_attn.q_proj") == 2
    assert plain.scale_of("model.layers.1.mlp.up_proj") == 4
    assert plain.scale_of("model.layers.0.mlp.up_proj") == 0.5
    assert read_settings(write(tmp_path, PLAIN | {"use_rslora": True})).scale_of("any") == 16 / 8**0.5


@pytest.mark.parametrize("kind", ["IA3Config", "PrefixTuningConfig", "LoHaConfig", "AdaLoraConfig"])
def test_other_types_are_refused_by_name(tmp_path, kind):
    import peft

    extra = {"PrefixTuningConfig": {"num_virtual_tokens": 3}, "AdaLoraConfig": {"total_step": 9}}.get(
        kind, {}
    )
    config = getattr(peft, kind)(task_type="CAUSAL_LM", **extra)
    peft.get_peft_model(base_model("llama"), config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=rf"peft_type '{config.peft_type.value}' are not read.*'LORA'"):
        read_settings(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"r": 0}, "r must be a whole number >= 1"),
        ({"r": None}, "r must be a whole number"),
        ({"lora_alpha": "16"}, "lora_alpha must be a number"),
        ({"rank_pattern": [3]}, "rank_pattern must map names"),
        ({"rank_pattern": {"(": 3}}, "rank_pattern: '\\(' is no regular expression"),
        ({"alpha_pattern": {"q": None}}, "alpha_pattern must be a number"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"use_rslora": "yes"}, "use_rslora must be true or false, got 'yes'"),
        ({"modules_to_save": "lm_head"}, "modules_to_save must be a list of names, got 'lm_head'"),
        ({"layer_replication": [[0, 2]]}, r"key 'layer_replication' is \[\[0, 2\]\]"),
        ({"use_qalora": True}, "key 'use_qalora'"),
        ({"alora_invocation_tokens": [3]}, "key 'alora_invocation_tokens'"),
        ({"peft_type": None}, "peft_type None"),
        ({"trainable_token_indices": [-1]}, "trainable_token_indices must be a whole number >= 0"),
    ],
)
def test_values_that_are_not_read_are_refused(tmp_path, values, message):
    with pytest.raises(CheckpointError, match=rf"adapter_config\.json: .*{message}"):
        read_settings(write(tmp_path, PLAIN | values))
