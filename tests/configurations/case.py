"""What the tables of configurations are made of: one case is one model that transformers can build."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# Whether a query at one position sees a key at another one.
Sees = Callable[[int, int], bool]


def causal(query: int, key: int) -> bool:
    """Those before it and itself."""
    return key <= query


def everywhere(query: int, key: int) -> bool:
    """All."""
    return True


def by_block(length: int) -> Sees:
    """Its own block of this length whole, and all earlier ones."""

    def sees(query: int, key: int) -> bool:
        return key // length <= query // length

    return sees


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """A model of transformers that computes what the code published with another family's weights does.

    family, config: what transformers calls it, and the arguments of its configuration class. rename: from the
    tensors of its checkpoint to those of the family's.
    """

    family: str
    config: Mapping[str, Any]
    rename: Callable[[Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model: `config` holds the arguments of transformers' configuration class of `family`.

    stand_in: of a family that transformers does not have, what to build in its place; `config` then is its
    ``config.json``. sees: who sees whom; transformers is shown it as an array where it is not `causal`.
    prompt_lengths: of the prompts that are continued. forward_length: of the sequences whose logits are
    compared. cached_reference: whether transformers' cached decoding computes what its full forward does.
    rewritten: config keys that are written back with other values that mean the same.
    """

    name: str
    family: str
    config: Mapping[str, Any]
    stand_in: StandIn | None = None
    sees: Sees = causal
    prompt_lengths: tuple[int, ...] = (5, 17, 33)
    forward_length: int = 33
    cached_reference: bool = True
    rewritten: tuple[str, ...] = ()
    seed: int = 0

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def is_causal(self) -> bool:
        """Whether tokens see none behind them, so that the model can decode token by token."""
        return self.sees is causal


def hf_dict(case: Case) -> dict[str, Any]:
    """The configuration as it is found in a checkpoint."""
    return _as_written(case, use_diff=True)


def full_hf_dict(case: Case) -> dict[str, Any]:
    """The configuration with all keys that transformers knows, those of default values too."""
    return _as_written(case, use_diff=False)


def _as_written(case: Case, *, use_diff: bool) -> dict[str, Any]:
    from transformers import AutoConfig

    if case.stand_in is not None:
        return {"model_type": case.family, **case.config}
    config = AutoConfig.for_model(case.family, **case.config)
    return json.loads(config.to_json_string(use_diff=use_diff))


VOCAB = 61


def dense_case(
    family: str,
    name: str,
    prompt_lengths: tuple[int, ...] = (5, 17, 33),
    forward_length: int = 33,
    cached_reference: bool = True,
    rewritten: tuple[str, ...] = (),
    **changes: Any,
) -> Case:
    """A case with small sizes under the names that Llama gave them, some of them changed or added to."""
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2}
    limits = {"max_position_embeddings": 128, "num_hidden_layers": 2}
    # The default padding ids of some families are beyond this vocabulary.
    config = {"vocab_size": VOCAB, "pad_token_id": 0, **sizes, **limits, **changes}
    name = f"{family}-{name}"
    return Case(
        name=name,
        family=family,
        config=config,
        prompt_lengths=prompt_lengths,
        forward_length=forward_length,
        cached_reference=cached_reference,
        rewritten=rewritten,
    )


def rope_keys(rope_type: str, **parameters: Any) -> dict[str, Any]:
    """The keys of a rotary embedding."""
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": 500.0, **parameters}}
