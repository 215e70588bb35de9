"""What ``adapter_config.json`` of a LoRA adapter says, as far as it changes what is computed."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.files import read_json_object
from jaxmodels.checks import number, shown, whole

CONFIG_FILE = "adapter_config.json"

# Keys that say which layers are adapted, which shows in the tensors, or how an adapter was trained.
_INERT = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "eva_config", "exclude_modules",
        "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config",
        "lora_bias", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "peft_type",
        "peft_version", "qalora_group_size", "revision", "runtime_config", "target_modules",
        "target_parameters", "task_type",
    }
)  # fmt: skip
_READ = frozenset(
    {
        "alpha_pattern", "ensure_weight_tying", "fan_in_fan_out", "lora_alpha", "modules_to_save", "r",
        "rank_pattern", "trainable_token_indices", "use_dora", "use_rslora",
    }
)  # fmt: skip
# Initialisations that take something from the base's weights; peft does so again when it loads the adapter.
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """The settings of an adapter.

    Attributes:
        base: name of the model that it was trained for, if it says so.
        rank, alpha: for modules that no pattern names.
        ranks, alphas: by regular expressions that the end of a module's name matches.
        use_rslora: the product of the low-rank pair is scaled by alpha / sqrt(rank), not alpha / rank
            (https://arxiv.org/abs/2312.03732).
        use_dora: each pair comes with the norms of its outputs.
        fan_in_fan_out: square weights are stored inputs first, as GPT-2's.
        replaced: last parts of the names of modules that the adapter has weights of its own for.
        stays_tied: an embedding that is tied to the head stays so.
        token_rows: embeddings of which tokens are replaced, by the last part of the module's name; the name
            is empty where the settings give none.
    """

    base: str | None
    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    use_rslora: bool
    use_dora: bool
    fan_in_fan_out: bool
    replaced: tuple[str, ...]
    stays_tied: bool
    token_rows: Mapping[str, tuple[int, ...]]

    def rank_of(self, module: str) -> int:
        """The rank of a module's pair."""
        return _matched(self.ranks, module, self.rank)

    def scale_of(self, module: str) -> float:
        """What the product of a module's pair is multiplied by."""
        rank = self.rank_of(module)
        return _matched(self.alphas, module, self.alpha) / (math.sqrt(rank) if self.use_rslora else rank)

    def rows_of(self, module: str) -> tuple[int, ...] | None:
        """The tokens whose embeddings are replaced in a module, if any are."""
        return self.token_rows.get(module.rsplit(".", 1)[-1], self.token_rows.get(""))


def read_settings(directory: Path) -> LoraSettings:
    """The settings in a directory.

    Raises:
        CheckpointError: the file is absent or corrupt, the adapter is of another type than LoRA, or a key has
            a value that is not read.
    """
    file = directory / CONFIG_FILE
    values = read_json_object(file)
    _check_type(file, values)
    try:
        return LoraSettings(
            base=_base(values),
            rank=whole("r", values.get("r"), low=1),
            alpha=number("lora_alpha", values.get("lora_alpha")),
            ranks={key: whole("rank_pattern", rank, low=1) for key, rank in _table(values, "rank_pattern")},
            alphas={key: number("alpha_pattern", alpha) for key, alpha in _table(values, "alpha_pattern")},
            use_rslora=_flag(values, "use_rslora"),
            use_dora=_flag(values, "use_dora"),
            fan_in_fan_out=_flag(values, "fan_in_fan_out"),
            replaced=_modules(values.get("modules_to_save") or ()),
            stays_tied=_flag(values, "ensure_weight_tying"),
            token_rows=_token_rows(values.get("trainable_token_indices")),
        )
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: {error}") from error


def _base(values: Mapping[str, Any]) -> str | None:
    base = values.get("base_model_name_or_path")
    return base if isinstance(base, str) and base else None


def _check_type(file: Path, values: Mapping[str, Any]) -> None:
    kind = values.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{file}: adapters of peft_type {shown(kind)} are not read; expected 'LORA': merge the adapter "
            "into its model with peft (merge_and_unload, where it has one) and load what that saves"
        )
    start = values.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGE_THE_BASE):
        raise CheckpointError(
            f"{file}: init_lora_weights is {start!r}, so the adapter belongs to weights that are not the "
            "base's own; save it with peft's path_initial_model_for_weight_conversion, or merge it with peft"
        )
    for key, value in values.items():
        if value and key not in _INERT | _READ:
            raise CheckpointError(f"{file}: key {key!r} is {shown(value)}; adapters with it are not read")


def _flag(values: Mapping[str, Any], key: str) -> bool:
    value = values.get(key)
    if value not in (True, False, None):
        raise ValueError(f"{key} must be true or false, got {shown(value)}")
    return bool(value)


def _modules(names: Any) -> tuple[str, ...]:
    """The last parts of modules' names."""
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"modules_to_save must be a list of names, got {shown(names)}")
    return tuple(name.rsplit(".", 1)[-1] for name in names)


def _table(values: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    table = values.get(key) or {}
    if not isinstance(table, Mapping):
        raise ValueError(f"{key} must map names of modules to numbers, got {shown(table)}")
    for pattern in table:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{key}: {pattern!r} is no regular expression: {error}") from error
    return list(table.items())


def _token_rows(value: Any) -> dict[str, tuple[int, ...]]:
    """Indices alone are those of the input embeddings."""
    by_name = value if isinstance(value, Mapping) else {"": value} if value else {}
    return {
        name.rsplit(".", 1)[-1]: tuple(whole("trainable_token_indices", row) for row in rows)
        for name, rows in by_name.items()
    }


def _matched(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """The value of the first pattern that a module's name ends in."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise
