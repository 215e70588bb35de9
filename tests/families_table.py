"""Writes docs/families.md: what each family is made of, and what the tests cover, from their own tables.

python tests/families_table.py
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configurations import CASES, ELSEWHERE
from configurations.case import hf_dict
from tpu_model_configs import CONFIGS, TOPOLOGIES

import jaxmodels as jm
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.masks import Bidirectional, BlockCausal, Causal, Mask
from jaxmodels.layers.rope import Rope, rope_to_hf
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.families import FAMILIES

DOCUMENT = Path(__file__).parent.parent / "docs" / "families.md"

HEAD = f"""# Model families

Written by `python tests/families_table.py` from the registry and the tables of the tests; a test compares it
with what the script writes.

**Mixers**, **feed-forward** and **positions** are the layers (classes of `jaxmodels.layers`) and the options
that the tested configurations of a family use, in the order in which they occur. **Sees** says which tokens
one sees in a whole sequence. **Compared** counts the configurations with which a family is loaded, its logits
(to 1e-4) and 64 greedy tokens are compared with `transformers`, and its export read back by `transformers`
bit for bit (`tests/models/test_families.py`); of models whose tokens see later ones, logits and export. Some
of these are not in `transformers` under their names: the checkpoint then is that of a model there which
computes the same, its tensors renamed. Where `transformers` does not have the layout, the column names the
test that takes its place. **TPU** says whether
prefill, decoding and a whole `generate` go through the TPU compiler for {TOPOLOGIES[0]}
(`tests/tpu_configs/test_aot.py`).

| `model_type` | models | mixers | feed-forward | positions | sees | compared | TPU |
|---|---|---|---|---|---|---|---|
"""

ATTENTION_OPTIONS = {
    "sliding_window": "windows",
    "chunk": "chunks",
    "query_scale": "queries scaled by position",
    "softcap": "capped logits",
    "scale": "own scale",
    "sink_logits": "sinks",
    "output_gate": "output gate",
    "query_norm": "normalised queries and keys",
    "keys_as_values": "keys that are values too",
    "norm_across_heads": "norms across heads",
    "clip": "clipped queries, keys and values",
    "qkv_bias": "biases",
}


def examples(family: str) -> list[Decoder]:
    """The models of a family that the tests run."""
    values = [hf_dict(case) for case in CASES if case.family == family]
    return [jm.config_from_hf(v) for v in (*values, *([CONFIGS[family]] if family in CONFIGS else []))]


def parts(layer: Any) -> Iterator[Any]:
    """A layer and those that it is made of."""
    if isinstance(layer, tuple):
        for item in layer:
            yield from parts(item)
    elif dataclasses.is_dataclass(layer):
        yield layer
        for field in dataclasses.fields(layer):
            yield from parts(getattr(layer, field.name))


def joined(names: Iterator[str] | list[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _is_mixer(part: Any) -> bool:
    return hasattr(part, "state_spec") and hasattr(part, "spec")


def mixers(configs: list[Decoder]) -> str:
    """The kinds of mixers, attention with its options."""
    found = [p for c in configs for b in c.blocks for p in parts(b.mixer) if _is_mixer(p)]
    kinds = dict.fromkeys(type(mixer).__name__ for mixer in found)
    attention = [mixer for mixer in found if isinstance(mixer, Attention)]
    grouped = any(a.num_kv_heads < a.num_heads for a in attention)
    options = [text for name, text in ATTENTION_OPTIONS.items() if any(getattr(a, name) for a in attention)]
    details = f" ({joined(['grouped heads' if grouped else 'equal heads', *options])})"
    return ", ".join(f"`{kind}`{details if kind == 'Attention' else ''}" for kind in kinds)


def feed_forwards(configs: list[Decoder]) -> str:
    """The kinds of feed-forward layers, those of several parts with them."""

    def described(ffn: Any) -> str:
        parts = ("router", "experts", "zero_computation", "shared")
        inner = {name.replace("_", " "): getattr(ffn, name, None) for name in parts}
        names = [f"{name} `{type(p).__name__}`" for name, p in inner.items() if dataclasses.is_dataclass(p)]
        return f"`{type(ffn).__name__}`" + (f" ({joined(names)})" if names else "")

    return joined([described(b.ffn) for c in configs for b in c.blocks if b.ffn is not None]) or "none"


def positions(configs: list[Decoder]) -> str:
    """The types of rotary embeddings, and what else says where a token stands."""
    found = [part for c in configs for b in c.blocks for part in parts(b.mixer)]
    ropes = [part for part in found if isinstance(part, Rope)]
    names = [rope_to_hf(rope, rope.rotary_dim)["rope_parameters"]["rope_type"] for rope in ropes]
    text = [f"rope: {', '.join(dict.fromkeys(names))}"] if names else []
    attention = [part for part in found if isinstance(part, Attention)]
    text += ["interleaved"] if any(rope.style == "interleaved" for rope in ropes) else []
    partial = any(a.rope is not None and a.rope.rotary_dim < a.head_dim for a in attention)
    text += ["in a part of the head"] if partial else []
    learned = any(c.learned_positions is not None for c in configs)
    text += ["learned"] if learned else []
    text += ["layers without"] if ropes and any(a.rope is None for a in attention) else []
    return "; ".join(text) or "none"


def seen(configs: list[Decoder]) -> str:
    """Which tokens one sees in a whole sequence."""

    def described(mask: Mask) -> str:
        match mask:
            case Causal():
                return "earlier ones"
            case Bidirectional():
                return "all"
            case BlockCausal():
                return "its block and earlier ones"
        return type(mask).__name__

    return joined([described(config.mask) for config in configs])


def row(family: str) -> str:
    configs = examples(family)
    compared = sum(case.family == family for case in CASES)
    cells = [
        f"`{family}`",
        FAMILIES[family].summary,
        mixers(configs),
        feed_forwards(configs),
        positions(configs),
        seen(configs),
        str(compared) if compared else f"[`{ELSEWHERE[family]}`](../tests/models/{ELSEWHERE[family]})",
        "yes" if family in CONFIGS else "no",
    ]
    return f"| {' | '.join(cells)} |\n"


def document() -> str:
    """The contents of docs/families.md."""
    return HEAD + "".join(row(family) for family in jm.list_families())


if __name__ == "__main__":
    DOCUMENT.write_text(document(), "utf-8")
