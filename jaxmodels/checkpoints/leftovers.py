"""What tensors are that a checkpoint has beyond the language model, by their names."""

import re

# Of models that also see or hear: the part between the names' dots.
_OTHER_SENSES = frozenset(
    {
        "aligner", "audio_encoder", "audio_model", "audio_projector", "audio_tower", "connector",
        "embed_audio", "embed_tokens_extend", "embed_vision", "image_encoder", "image_newline",
        "mm_projector", "multi_modal_projector", "patch_merger", "resampler", "view_seperator",
        "vision_adapter",
        "vision_embed_tokens", "vision_embedder", "vision_encoder", "vision_language_adapter", "vision_model",
        "vision_projection", "vision_tower", "visual",
    }
)  # fmt: skip

_KINDS = (
    (
        r"(score|classifier|classification_head|reward_head|rm_head|regression_head)(\..+)?",
        "the head of a reward model or classifier, which gives scores of texts and no tokens; load the "
        "language model that it was trained from",
    ),
    (
        r"(v_head|value_head|critic_head)\..+",
        "a value head, which training by reinforcement adds; save the language model alone "
        "(with trl: model.pretrained_model.save_pretrained)",
    ),
    (
        r".*\.(qweight|qzeros|scales|weight_packed|weight_scale|weight_scale_inv|weight\.absmax)",
        "part of a quantised weight, which no quantization_config in the configuration says how to decode; "
        "fetch the config.json that belongs to the weights",
    ),
    (r"qa_outputs\..+", "the head of a model that marks answers in a text, not of a language model"),
    (
        r".*\.(lora_[AB]|lora_embedding_[AB]|base_layer|modules_to_save)\..+",
        "part of an adapter; merge it into its model (with peft: merge_and_unload) and save that",
    ),
)

_EXTRA = re.compile(r"mtp(_layers)?\.")


def describe(name: str) -> str | None:
    """What a tensor is, and what to do about it, where its name tells: a phrase for an error."""
    if is_other_sense(name):
        return (
            "part of what the model sees or hears with; load(..., text_only=True), or --text-only, loads the "
            "language model without it"
        )
    for pattern, what in _KINDS:
        if re.fullmatch(rf"(.*\.)?{pattern}", name):
            return what
    return None


def is_other_sense(name: str) -> bool:
    """Whether a tensor belongs to a vision or audio part, or to what connects one to the language model."""
    return not _OTHER_SENSES.isdisjoint(name.split("."))


def predicts_further_tokens(name: str) -> bool:
    """Whether a tensor belongs to a module for multi-token prediction of its own name, such as Qwen3-Next's.

    `name` is the stored name, or that without the prefix of the language model.
    """
    return _EXTRA.match(name) is not None
