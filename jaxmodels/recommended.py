"""From what a checkpoint recommends for generating to the strategy that does it."""

import warnings
from collections.abc import Mapping
from typing import Any

from jaxmodels.checkpoints.generation_config import GenerationDefaults
from jaxmodels.checks import shown
from jaxmodels.decoding import processors
from jaxmodels.decoding.autoregressive import Autoregressive
from jaxmodels.decoding.processors import Processor
from jaxmodels.decoding.samplers import Greedy, Sample, Sampler


def recommended(defaults: GenerationDefaults) -> Autoregressive:
    """Sequential decoding as `defaults` ask for it; the lengths and ends are for the call of `generate`.

    One warning names the settings that change the text and that this does not obey.

    Raises:
        ValueError: a setting lies outside its range.
    """
    unheeded = [f"{key}={shown(value)}" for key, value in defaults.extra.items() if _matters(key, value)]
    if unheeded:
        warnings.warn(
            f"these generation settings of the checkpoint are not obeyed: {', '.join(unheeded)}",
            stacklevel=3,
        )
    return Autoregressive(sampler=_sampler(defaults), processors=_processors(defaults))


def _sampler(defaults: GenerationDefaults) -> Sampler:
    """Values that leave a filter without effect leave it out, because it costs time."""
    if not defaults.do_sample or defaults.temperature == 0:  # dividing by ever less ends in the likeliest
        return Greedy()
    return Sample(
        temperature=1.0 if defaults.temperature is None else defaults.temperature,
        top_k=defaults.top_k or None,
        top_p=None if defaults.top_p == 1 else defaults.top_p,
        min_p=defaults.min_p or None,
        typical_p=None if defaults.typical_p == 1 else defaults.typical_p,
        epsilon_cutoff=defaults.epsilon_cutoff or None,
        eta_cutoff=defaults.eta_cutoff or None,
    )


def _processors(defaults: GenerationDefaults) -> tuple[Processor, ...]:
    """In the order of `transformers`, with the two penalties that it lacks behind the one that it has."""
    ends = [(token,) for token in defaults.eos_token_ids]
    bad_words = tuple(words for words in defaults.bad_words_ids if words not in ends)  # as `transformers`
    made: list[Processor] = []
    if defaults.sequence_bias:
        made.append(processors.SequenceBias(defaults.sequence_bias))
    if defaults.repetition_penalty not in (None, 1):
        made.append(processors.RepetitionPenalty(defaults.repetition_penalty))
    if defaults.frequency_penalty:
        made.append(processors.FrequencyPenalty(defaults.frequency_penalty))
    if defaults.presence_penalty:
        made.append(processors.PresencePenalty(defaults.presence_penalty))
    if defaults.no_repeat_ngram_size:
        made.append(processors.NoRepeatNGram(defaults.no_repeat_ngram_size))
    if bad_words:
        made.append(processors.BadWords(bad_words))
    if defaults.min_length:
        made.append(processors.MinLength(defaults.min_length))
    if defaults.min_new_tokens:
        made.append(processors.MinNewTokens(defaults.min_new_tokens))
    if defaults.forced_bos_token_id is not None:
        made.append(processors.ForcedBos(defaults.forced_bos_token_id))
    if defaults.forced_eos_token_id:
        made.append(processors.ForcedEos(defaults.forced_eos_token_id))
    if defaults.suppress_tokens:
        made.append(processors.Suppress(defaults.suppress_tokens))
    if defaults.begin_suppress_tokens:
        made.append(processors.SuppressAtBegin(defaults.begin_suppress_tokens))
    return tuple(made)


# Settings that change the text, and the values beside null with which they do not.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "diversity_penalty": (0,),
    "guidance_scale": (1,),
    "penalty_alpha": (0,),
    "remove_invalid_values": (False,),
    "token_healing": (False,),
    "encoder_repetition_penalty": (1,),
    "encoder_no_repeat_ngram_size": (0,),
}

# Keys of published files that change no text: what is returned, caches, speed, and settings of beam search
# without beams.
_INERT = frozenset(
    {
        "_from_model_config",
        "_commit_hash",
        "transformers_version",
        "model_type",
        "trust_remote_code",
        "chat_format",
        "max_window_size",
        "user_token_id",
        "assistant_token_id",
        "decoder_start_token_id",
        "early_stopping",
        "length_penalty",
        "renormalize_logits",
        "use_mtp",
        "use_cache",
        "cache_implementation",
        "cache_config",
        "max_cache_len",
        "low_memory",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "output_logits",
        "return_dict_in_generate",
        "is_assistant",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
        "prompt_lookup_num_tokens",
        "max_matching_ngram_size",
        "assistant_early_exit",
        "assistant_lookbehind",
        "target_lookbehind",
        "assistant_ensemble_weight",
        "speculation_type",
        "compile_config",
        "disable_compile",
        "continuous_batching_config",
        "prefill_chunk_size",
    }
)


def _matters(key: str, value: Any) -> bool:
    """Whether a key without a field in `GenerationDefaults` may ask for another text."""
    return value is not None and key not in _INERT and value not in _NEUTRAL.get(key, ())
