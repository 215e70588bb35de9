"""What the tables of configurations are made of: one case is one model that transformers can build."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model: `config` holds the arguments of transformers' configuration class of `family`.

    prompt_lengths: of the prompts that are continued. forward_length: of the sequences whose logits are
    compared. cached_reference: whether transformers' cached decoding computes what its full forward does.
    rewritten: config keys that are written back with other values that mean the same.
    """

    name: str
    family: str
    config: Mapping[str, Any]
    prompt_lengths: tuple[int, ...] = (5, 17, 33)
    forward_length: int = 33
    cached_reference: bool = True
    rewritten: tuple[str, ...] = ()
    seed: int = 0

    def __hash__(self) -> int:
        return hash(self.name)


def hf_dict(case: Case) -> dict[str, Any]:
    """The configuration as it is found in a checkpoint."""
    from transformers import AutoConfig

    return json.loads(AutoConfig.for_model(case.family, **case.config).to_json_string())


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
