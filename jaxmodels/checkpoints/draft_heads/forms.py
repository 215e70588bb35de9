"""By what of its ``config.json`` each published form of draft heads is known.

Apart from the files that read and write them, since every model that is loaded is asked whether it is a head.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jaxmodels.checkpoints.errors import CheckpointError

# The classes of each form: in `architectures`, or by the type that speculators has for them.
SPECULATORS = {"eagle3": "Eagle3DraftModel", "peagle": "PEagleDraftModel"}
SPECULATORS_DFLASH = {
    "dflash": "DFlashDraftModel", "dflash2": "DFlash2DraftModel", "dspark": "DSparkDraftModel",
}  # fmt: skip
DFLASH = ("DFlashDraftModel", "DFlash2DraftModel")
EAGLE3 = ("LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM")
MTP = ("DeepSeekMTPModel", "MiMoMTPModel", "NemotronHMTPModel", "Qwen3NextMTP")
# Keys and values that other forms are known by.
SPECULATORS_TYPE = "speculators_model_type"
DFLASH_SECTION = "dflash_config"
TRANSFORMERS_DFLASH_TYPE = "muse_glimmer_assistant"


def form_of(values: Mapping[str, Any]) -> str | None:
    """The name of the form that a ``config.json`` is of; None where it is that of no draft head."""
    return next((name for name, is_of in _FORMS.items() if is_of(values)), None)


def check_is_no_head(values: Mapping[str, Any], file: Path) -> None:
    """Raises CheckpointError where the contents of a ``config.json`` are those of a draft head."""
    name = form_of(values)
    if name is not None:
        raise CheckpointError(
            f"{file} describes a draft head ({name}), which drafts for a model and is none: give it "
            "as --draft or Speculative(draft=...); jaxmodels.load_drafter reads it"
        )


def _names(values: Mapping[str, Any], known: Collection[str]) -> bool:
    names = values.get("architectures")
    return isinstance(names, list) and any(name in known for name in names)


# In this order a configuration is offered to them. The files of EAGLE-3's authors name the class of a plain
# Llama, and have a key beside its own.
_FORMS: Mapping[str, Callable[[Mapping[str, Any]], bool]] = MappingProxyType(
    {
        "speculators": lambda values: values.get(SPECULATORS_TYPE) in SPECULATORS,
        "speculators_dflash": lambda values: values.get(SPECULATORS_TYPE) in SPECULATORS_DFLASH,
        "transformers_dflash": lambda values: values.get("model_type") == TRANSFORMERS_DFLASH_TYPE,
        "dflash": lambda values: DFLASH_SECTION in values or _names(values, DFLASH),
        "eagle3": lambda values: _names(values, EAGLE3) or "draft_vocab_size" in values,
        "medusa": lambda values: "medusa_num_heads" in values,
        "medusa_vllm": lambda values: values.get("model_type") == "medusa",
        "mtp": lambda values: _names(values, MTP),
    }
)
