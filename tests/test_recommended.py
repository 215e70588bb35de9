"""What a checkpoint recommends as a strategy, in the order of transformers, and what is not obeyed."""

import json

import pytest
import transformers

from jaxmodels.checkpoints import GenerationDefaults
from jaxmodels.decoding import Autoregressive, Sample, processors
from jaxmodels.recommended import recommended


def load(directory, **settings):
    (directory / "generation_config.json").write_text(json.dumps(settings))
    return GenerationDefaults.load(directory)


def test_every_setting_that_can_be_obeyed_is(tmp_path):
    defaults = load(
        tmp_path,
        do_sample=True,
        temperature=0.7,
        top_k=9,
        top_p=0.9,
        min_p=0.1,
        typical_p=0.8,
        epsilon_cutoff=0.01,
        eta_cutoff=0.02,
        eos_token_id=[3],
        begin_suppress_tokens=[5],
        suppress_tokens=[4],
        forced_eos_token_id=3,
        forced_bos_token_id=2,
        min_new_tokens=2,
        min_length=4,
        bad_words_ids=[[1], [3], [3, 4]],
        no_repeat_ngram_size=3,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        repetition_penalty=1.1,
        sequence_bias=[[[1, 2], 0.5]],
    )
    assert recommended(defaults) == Autoregressive(
        sampler=Sample(
            temperature=0.7,
            top_k=9,
            top_p=0.9,
            min_p=0.1,
            typical_p=0.8,
            epsilon_cutoff=0.01,
            eta_cutoff=0.02,
        ),
        processors=(
            processors.SequenceBias({(1, 2): 0.5}),
            processors.RepetitionPenalty(1.1),
            processors.FrequencyPenalty(0.2),
            processors.PresencePenalty(0.1),
            processors.NoRepeatNGram(3),
            processors.BadWords([[1], [3, 4]]),  # an end by itself is no bad word
            processors.MinLength(4),
            processors.MinNewTokens(2),
            processors.ForcedBos(2),
            processors.ForcedEos([3]),
            processors.Suppress([4]),
            processors.SuppressAtBegin([5]),
        ),
    )


def test_settings_without_effect_cost_nothing(tmp_path, recwarn):
    neutral = {
        "do_sample": True,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "typical_p": 1.0,
        "epsilon_cutoff": 0.0,
        "eta_cutoff": 0.0,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "min_length": 0,
        "num_beams": 1,
        "guidance_scale": 1.0,
        "penalty_alpha": None,
        "bad_words_ids": None,
        "length_penalty": 2.0,
        "max_length": 20,
    }
    assert recommended(load(tmp_path, **neutral)) == Autoregressive(sampler=Sample())
    assert recommended(load(tmp_path, temperature=0.6, top_k=5)) == Autoregressive()
    assert recommended(load(tmp_path, do_sample=True, temperature=0.0, top_k=5)) == Autoregressive()
    assert not recwarn.list


def test_one_warning_names_what_is_not_obeyed(tmp_path):
    defaults = load(tmp_path, num_beams=4, guidance_scale=1.5, penalty_alpha=0.6, use_cache=False, later=[1])
    with pytest.warns(UserWarning, match="are not obeyed") as told:
        assert recommended(defaults) == Autoregressive()
    (message,) = [str(one.message) for one in told]
    assert message.endswith("not obeyed: num_beams=4, guidance_scale=1.5, penalty_alpha=0.6, later=[1]")


def test_what_transformers_writes_by_itself_is_known(tmp_path, recwarn):
    everything = transformers.GenerationConfig().to_dict()
    neutral = transformers.GenerationConfig._get_default_generation_params()
    assert recommended(load(tmp_path, **(everything | neutral))) == Autoregressive()
    assert not recwarn.list


def test_values_outside_their_range_are_refused(tmp_path):
    with pytest.raises(ValueError, match="temperature must be a finite number > 0, got -1"):
        recommended(load(tmp_path, do_sample=True, temperature=-1))
