"""DFlash heads load from and go to their published forms, and draft there as their authors' code does.

The oracles are the dflash package (where it is installed) and transformers' `MuseGlimmerAssistantModel`.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from dflash_heads import BLOCK, CONV, HEADS, block, features, head, keep, markov, peek, sliding
from model_helpers import D_MODEL, VOCAB, attention, decoder, random_params

import jaxmodels as jm
from jaxmodels.decoding import DFlashDrafter, Speculative
from jaxmodels.models.draft_heads.slot_choice import MarkovBias, SlotConfidence

TARGET = decoder(attention(), attention())
LAYOUTS = ("dflash", "speculators_dflash", "transformers_dflash")
WRITABLE = {
    "dflash": {
        **{name: HEADS[name] for name in ("plain", "confident", "convolved", "gated", "recurrent")},
        "causal": head(block(causal=True), block(causal=True), target_depth=2),
        "sliding": head(sliding(4, True), BLOCK),
        "scaled": head(embed_scale=4.0, logit_scale=0.5, logit_softcap=30.0),
    },
    "speculators_dflash": {
        **{name: HEADS[name] for name in ("plain", "confident", "convolved", "gated", "recurrent")},
        "sliding": head(sliding(4, True), BLOCK),
        "both sides": head(sliding(4, False), BLOCK),
        "few tokens": head(vocab_size=7, choice=dataclasses.replace(markov(MarkovBias), vocab_size=7)),
        "confident alone": head(from_anchor=True, confidence=SlotConfidence(d_model=D_MODEL, bias=False)),
    },
    "transformers_dflash": {
        "plain": head(target_depth=2),
        "both sides": head(sliding(4, False), BLOCK, target_depth=2),
    },
}
CASES = [(layout, name) for layout in LAYOUTS for name in WRITABLE[layout]]


def drafter_of(one):
    ids = None if one.vocab_size == VOCAB else jnp.asarray([0, 3, 4, 9, 11, 20, 28])
    return DFlashDrafter(head=one, params=random_params(one.spec(), seed=3), token_ids=ids)


@pytest.mark.parametrize(("layout", "name"), CASES)
def test_what_is_saved_loads_as_it_was(layout, name, tmp_path):
    drafter = drafter_of(dataclasses.replace(WRITABLE[layout][name], layout=layout))
    jm.save_drafter(drafter, tmp_path / "head")
    again = jm.load_drafter(tmp_path / "head", TARGET)
    assert (again.head, again.size) == (drafter.head, drafter.size)
    jax.tree.map(np.testing.assert_array_equal, again.params, drafter.params)
    jax.tree.map(np.testing.assert_array_equal, again.token_ids, drafter.token_ids)


def test_numbers_of_layers_are_those_of_each_form(tmp_path):
    numbers = {}
    for layout in LAYOUTS:
        jm.save_drafter(drafter_of(HEADS["plain"]), tmp_path / layout, layout=layout)
        values = json.loads((tmp_path / layout / "config.json").read_text())
        numbers[layout] = (
            values.get("aux_hidden_state_layer_ids")
            or (values.get("dflash_config", values)["target_layer_ids"])
        )
    assert numbers == {"dflash": [0, 1], "speculators_dflash": [1, 2], "transformers_dflash": [0, 1]}


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A Qwen3 of six layers, here and in PyTorch, whose greedy text does not stand still."""
    torch.manual_seed(3)
    config = transformers.Qwen3Config(
        vocab_size=VOCAB, hidden_size=D_MODEL, intermediate_size=24, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, tie_word_embeddings=False,
        eos_token_id=None, pad_token_id=None, bos_token_id=None,
    )  # fmt: skip
    theirs = transformers.Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(1.0, 0.2) if parameter.ndim == 1 else parameter.normal_(0.0, 0.3)
    path = tmp_path_factory.mktemp("target")
    theirs.save_pretrained(path)
    return jm.load(path), theirs


def shake(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0, 0.2) if parameter.ndim == 1 else parameter.normal_(0.0, 0.3)
    return model.eval()


PROMPT, NEW = [5, 9, 17, 23, 2, 20, 11], 24
DFLASH_CONFIG = {"mask_token_id": 3, "block_size": 5}
DFLASH2_CONFIG = {"conv_kernel_size": 2, "conv_group_size": 4, "selector_rank": 4, "selector_top_k": 5}
VARIANTS = {
    "plain": {},
    "one layer": {"num_hidden_layers": 1},
    "sliding": {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4},
    "causal": {"is_causal": True},
    "scaled": {"dflash_config": {"input_embedding_scale": 3.0, "final_logit_softcapping": 2.0}},
    "DFlash2": {"dflash_config": DFLASH2_CONFIG},
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("sliding", "DFlash2") else pytest.mark.sweep)
        for name in VARIANTS
    ],
)
def test_the_authors_package_accepts_the_same_drafts_round_by_round(name, target, tmp_path, monkeypatch):
    package = pytest.importorskip("dflash.model", reason="the dflash package is not installed")
    ours, theirs = target
    given = dict(VARIANTS[name])
    section = {**DFLASH_CONFIG, **given.pop("dflash_config", {})}
    values = {"num_hidden_layers": 2, "num_target_layers": 6, **given, "dflash_config": section}
    config = transformers.Qwen3Config(
        vocab_size=VOCAB, hidden_size=D_MODEL, intermediate_size=20, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, use_sliding_window="sliding_window" in given, **values,
    )  # fmt: skip
    torch.manual_seed(5)
    kind = package.DFlash2DraftModel if "selector_rank" in section else package.DFlashDraftModel
    draft = shake(kind(config))
    draft.save_pretrained(tmp_path)
    drafter = jm.load_drafter(tmp_path, ours)
    out = ours.generate([PROMPT], NEW, Speculative(draft=drafter), stop_tokens=[])
    monkeypatch.setattr(package, "_cuda_time", lambda: 0.0)
    expected = package.dflash_generate(draft, theirs, torch.tensor([PROMPT]), NEW, None, return_stats=True)
    np.testing.assert_array_equal(out.tokens[0], expected.output_ids[0, len(PROMPT) :].numpy())
    assert out.stats.steps == len(expected.acceptance_lengths)
    accepted = sum(expected.acceptance_lengths) - len(expected.acceptance_lengths)
    assert out.stats.counters["accepted"] == accepted
    # And back: their class reads what we write.
    jm.save_drafter(drafter, tmp_path / "again")
    again = kind.from_pretrained(tmp_path / "again").state_dict()
    for key, tensor in draft.state_dict().items():
        torch.testing.assert_close(again[key], tensor, rtol=0, atol=0)


@pytest.mark.parametrize(
    "types",
    [None, pytest.param(["sliding_attention", "full_attention"], marks=pytest.mark.sweep)],
    ids=["sliding", "mixed"],
)
def test_transformers_finds_the_same_slots(types, target, tmp_path):
    """What its model gives for a block behind features, with windows that leave some out."""
    ours, _ = target
    config = transformers.MuseGlimmerAssistantConfig(
        hidden_size=D_MODEL, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, block_size=5, mask_token_id=3, target_layer_ids=[1, 3],
        sliding_window=3, layer_types=types, rope_parameters={"rope_type": "default", "rope_theta": 100.0},
    )  # fmt: skip
    torch.manual_seed(5)
    theirs = shake(transformers.MuseGlimmerAssistantModel(config))
    theirs.save_pretrained(tmp_path)
    drafter = jm.load_drafter(tmp_path, ours)
    one, params = drafter.head, drafter.params
    rng = np.random.default_rng(0)
    streams = rng.standard_normal((1, 7, 2 * D_MODEL)).astype(np.float32)
    slots = rng.standard_normal((1, 5, D_MODEL)).astype(np.float32)
    cache = transformers.cache_utils.DFlashCache(config=config)
    cache.set_previous_accepted_tokens(7)
    with torch.no_grad():
        expected = theirs(
            noise_embeds=torch.tensor(slots),
            context_hidden_states=torch.tensor(streams),
            position_ids=torch.arange(12)[None],
            cache=cache,
        ).last_hidden_state
    taps = {"blocks/1": streams[..., :D_MODEL], "blocks/3": streams[..., D_MODEL:]}
    made = features(one, params, taps)
    cache = keep(one, params, made, one.init_cache(1, 16, jnp.float32), np.asarray([7], np.int32))
    hidden, _ = peek(one, params, slots, cache, np.asarray([5], np.int32))
    np.testing.assert_allclose(hidden, expected.numpy(), atol=2e-5)


def test_a_form_that_does_not_say_the_vocabulary_asks_for_the_target(tmp_path):
    jm.save_drafter(drafter_of(HEADS["plain"]), tmp_path, layout="transformers_dflash")
    with pytest.raises(jm.CheckpointError, match="give load_drafter the model as its target"):
        jm.load_drafter(tmp_path)


def test_a_head_for_another_target_is_refused(tmp_path):
    jm.save_drafter(drafter_of(HEADS["plain"]), tmp_path)
    other = dataclasses.replace(TARGET, vocab_size=31)
    with pytest.raises(jm.CheckpointError, match=f"vocabulary of {VOCAB} tokens, and the target's has 31"):
        jm.load_drafter(tmp_path, other)


@pytest.mark.parametrize(
    ("layout", "one", "message"),
    [
        ("transformers_dflash", HEADS["gated"], "form of transformers has plain heads alone"),
        ("speculators_dflash", head(block(causal=True)), "neither causal layers without a sliding window"),
        ("dflash", head(sliding(4, False), block(causal=True)), "or all layers alike"),
        ("dflash", head(block(mixer_conv=CONV)), "a selector and the same convolutions around all layers"),
    ],
    ids=["choice", "causal", "mixed", "half"],
)
def test_what_a_form_does_not_hold_is_refused(layout, one, message, tmp_path):
    with pytest.raises(jm.CheckpointError, match=message):
        jm.save_drafter(drafter_of(one), tmp_path, layout=layout)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_token_id": None}, "key 'mask_token_id' is missing"),
        ({"target_layer_ids": [0, -1]}, "key 'target_layer_ids' must hold numbers of layers, from 0 on"),
        ({"mystery": 4}, "unknown config keys"),
    ],
)
def test_what_a_configuration_lacks_or_has_too_much_is_told(changes, message, tmp_path):
    jm.save_drafter(drafter_of(HEADS["plain"]), tmp_path)
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    values["dflash_config"] |= changes
    file.write_text(json.dumps(values))
    with pytest.raises(jm.CheckpointError, match=message):
        jm.load_drafter(tmp_path)
