"""EAGLE-3 heads in published files compute what the mathematics say, written out once more."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from model_helpers import quick_jit
from safetensors.torch import load_file, save_file

import jaxmodels as jm
from jaxmodels.decoding import Greedy
from jaxmodels.decoding.drafters.feature_state import FeatureState
from jaxmodels.layers.spec import filled
from jaxmodels.models.draft_heads.feature_head import Target

WIDTH, HEADS, KV_HEADS, HEAD, FFN, VOCAB, KNOWN, EPS = 16, 4, 2, 4, 24, 29, 11, 1e-5
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
    "intermediate_size": FFN, "num_hidden_layers": 1, "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS, "hidden_act": "silu", "rms_norm_eps": EPS, "rope_theta": 500.0,
    "rope_scaling": None, "vocab_size": VOCAB, "draft_vocab_size": KNOWN, "max_position_embeddings": 64,
    "attention_bias": False, "tie_word_embeddings": False, "pretraining_tp": 1, "torch_dtype": "float16",
    "eagle_config": {"eagle_aux_hidden_state_layer_ids": [-1, 0, 1], "use_aux_hidden_state": True},
}  # fmt: skip

MASK, DRAFTED = 7, 4
PARALLEL = {
    "architectures": ["PEagleDraftModel"], "speculators_model_type": "peagle", "draft_vocab_size": KNOWN,
    "eagle_aux_hidden_state_layer_ids": [0, 1, 2], "mask_token_id": MASK, "norm_before_residual": False,
    "speculators_config": {
        "algorithm": "peagle", "default_proposal_method": "greedy",
        "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": DRAFTED}],
    },
    "transformer_layer_config": {
        key: CONFIG[key] for key in (
            "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "hidden_act", "rms_norm_eps", "rope_theta", "vocab_size",
        )
    },
}  # fmt: skip


def published():
    """Tensors by the authors' names."""
    torch.manual_seed(0)
    sizes = {
        "fc.weight": (WIDTH, 3 * WIDTH),
        "norm.weight": (WIDTH,),
        "lm_head.weight": (KNOWN, WIDTH),
        "embed_tokens.weight": (VOCAB, WIDTH),
        "midlayer.input_layernorm.weight": (WIDTH,),
        "midlayer.hidden_norm.weight": (WIDTH,),
        "midlayer.post_attention_layernorm.weight": (WIDTH,),
        "midlayer.self_attn.q_proj.weight": (HEADS * HEAD, 2 * WIDTH),
        "midlayer.self_attn.k_proj.weight": (KV_HEADS * HEAD, 2 * WIDTH),
        "midlayer.self_attn.v_proj.weight": (KV_HEADS * HEAD, 2 * WIDTH),
        "midlayer.self_attn.o_proj.weight": (WIDTH, HEADS * HEAD),
        "midlayer.mlp.gate_proj.weight": (FFN, WIDTH),
        "midlayer.mlp.up_proj.weight": (FFN, WIDTH),
        "midlayer.mlp.down_proj.weight": (WIDTH, FFN),
    }
    tensors = {name: torch.randn(*size) / size[-1] ** 0.5 for name, size in sizes.items()}
    known = torch.tensor(sorted(np.random.default_rng(3).permutation(VOCAB)[:KNOWN].tolist()))
    flags = torch.zeros(VOCAB, dtype=torch.bool)
    flags[known] = True
    return {**tensors, "d2t": known - torch.arange(KNOWN), "t2d": flags}


def published_in_parallel():
    """Those of a P-EAGLE head by the names of `speculators`."""
    tensors = {name.replace("midlayer", "layers.0"): tensor for name, tensor in published().items()}
    return {**tensors, "mask_hidden": torch.randn(1, 1, 3 * WIDTH)}


def written(folder, config, tensors):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def directory(tmp_path):
    return written(tmp_path / "head", CONFIG, published())


@pytest.fixture
def parallel(tmp_path):
    return written(tmp_path / "parallel", PARALLEL, published_in_parallel())


def rms(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * scale


def rotate(x, position):
    frequencies = 500.0 ** -(np.arange(0, HEAD, 2) / HEAD)
    cos, sin = np.cos(position * frequencies), np.sin(position * frequencies)
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def step(w, token, feature, keys, values):
    """One pair: its logits, and the feature that is fed back."""
    position, layer = len(keys), "midlayer."
    read = np.concatenate(
        [
            rms(w["embed_tokens.weight"][token], w[layer + "input_layernorm.weight"]),
            rms(feature, w[layer + "hidden_norm.weight"]),
        ]
    )
    q, k, v = (w[f"{layer}self_attn.{p}_proj.weight"] @ read for p in "qkv")
    keys.append(rotate(k.reshape(KV_HEADS, HEAD), position))
    values.append(v.reshape(KV_HEADS, HEAD))
    found = []
    for head, query in enumerate(rotate(q.reshape(HEADS, HEAD), position)):
        served = head // (HEADS // KV_HEADS)
        scores = np.asarray([key[served] @ query for key in keys]) / HEAD**0.5
        weights = np.exp(scores - scores.max())
        found.append((weights / weights.sum()) @ np.asarray([value[served] for value in values]))
    x = feature + w[layer + "self_attn.o_proj.weight"] @ np.concatenate(found)
    y = rms(x, w[layer + "post_attention_layernorm.weight"])
    gate, up = (w[f"{layer}mlp.{p}_proj.weight"] @ y for p in ("gate", "up"))
    x = x + w[layer + "mlp.down_proj.weight"] @ (gate / (1 + np.exp(-gate)) * up)
    return w["lm_head.weight"] @ rms(x, w["norm.weight"]), x


def test_a_head_computes_what_the_mathematics_say(directory):
    """Four pairs with features of the target, then two with its own."""
    w = {name: tensor.double().numpy() for name, tensor in published().items()}
    rng = np.random.default_rng(1)
    streams, tokens = rng.standard_normal((3, 4, WIDTH)), rng.integers(0, VOCAB, 6)
    drafter = jm.load_drafter(directory)
    head = drafter.head
    assert head.taps == ("embeddings", "blocks/0", "blocks/1")
    taps = {name: jnp.asarray(s[None], jnp.float32) for name, s in zip(head.taps, streams, strict=True)}
    features = np.asarray(quick_jit(head.features)(drafter.params, taps))
    extend = quick_jit(
        lambda params, *pair: head.extend(params, Target(None, None), *pair, valid=np.ones(1, np.int32))
    )
    history, keys, values = filled(head.init_history(1, 8), jnp.float32), [], []
    for i, token in enumerate(tokens):
        if i < 4:
            feature, ours = w["fc.weight"] @ np.concatenate(streams[:, i]), features[:, i : i + 1]
        logits, feature = step(w, token, feature, keys, values)
        predicted, history = extend(drafter.params, np.full((1, 1), token, np.int32), ours, history)
        ours = predicted.features
        np.testing.assert_allclose(predicted.logits[0, 0], logits, atol=2e-5)
        np.testing.assert_allclose(ours[0, 0], feature, atol=2e-5)
    known = np.flatnonzero(published()["t2d"].numpy())
    np.testing.assert_array_equal(drafter.token_ids, known)


def test_a_parallel_head_drafts_what_the_mathematics_say(parallel):
    """Row 0 has three pairs to read, row 1 only one, and a history of two: masks stand behind each's own."""
    w = {
        name.replace("layers.0", "midlayer"): tensor.double().numpy()
        for name, tensor in published_in_parallel().items()
    }
    rng = np.random.default_rng(1)
    streams, tokens = rng.standard_normal((2, 3, 3 * WIDTH)), rng.integers(0, VOCAB, (2, 3))
    drafter = jm.load_drafter(parallel)
    head, read, fused = drafter.head, (0, 2), streams @ w["fc.weight"].T
    extend = quick_jit(
        lambda params, *pairs, valid: head.extend(params, Target(None, None), *pairs, valid=valid)
    )
    _, history = extend(
        drafter.params,
        tokens.astype(np.int32),
        fused.astype(np.float32),
        filled(head.init_history(2, 12), jnp.float32),
        valid=np.asarray(read, np.int32),
    )
    unread = [(tokens[row, n:], fused[row, n:]) for row, n in enumerate(read)]
    state = FeatureState(
        history=history,
        tokens=np.asarray([np.resize(t, DRAFTED + 1) for t, _ in unread], np.int32),
        features=np.asarray([np.resize(f, (DRAFTED + 1, WIDTH)) for _, f in unread], np.float32),
        count=np.asarray([len(t) for t, _ in unread], np.int32),
    )
    around = SimpleNamespace(
        config=None, params=None, sampler=Greedy(), processors=(), limit=jnp.full(2, DRAFTED),
        token=jnp.zeros(2, jnp.int32),
        output=SimpleNamespace(done=jnp.zeros(2, bool)), stop=lambda i, p: jnp.zeros(2, bool),
    )  # fmt: skip
    proposal, pending = quick_jit(lambda drafter, state: drafter.propose(state, around))(drafter, state)
    known, mask = np.flatnonzero(published()["t2d"].numpy()), w["fc.weight"] @ w["mask_hidden"][0, 0]
    for row in range(2):
        keys, values, scores = [], [], []
        pairs = [*zip(tokens[row], fused[row], strict=True), *[(MASK, mask)] * (DRAFTED - 1)]
        for token, feature in pairs:
            scores.append(step(w, token, feature, keys, values)[0])
        np.testing.assert_array_equal(proposal.tokens[row], known[np.argmax(scores[2:], axis=-1)])
    np.testing.assert_array_equal(proposal.count, [DRAFTED, DRAFTED])
    np.testing.assert_array_equal(pending.length, [3, 3])
    tags = np.asarray(pending.layers[0].positions)
    np.testing.assert_array_equal(np.sort(np.where(tags < 0, 99, tags), axis=1)[:, :4], [[0, 1, 2, 99]] * 2)


@pytest.mark.parametrize("layout", ["directory", "parallel"])
def test_published_files_go_back_bit_for_bit(layout, request, tmp_path):
    directory = request.getfixturevalue(layout)
    jm.save_drafter(jm.load_drafter(directory), tmp_path / "again")
    before, after = (load_file(d / "model.safetensors") for d in (directory, tmp_path / "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_numbers_of_tokens_that_there_are_not_are_refused(directory):
    tensors = published()
    tensors["d2t"][-1] = VOCAB
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(jm.CheckpointError, match="'d2t' leads to token 39, and the vocabulary has 29"):
        jm.load_drafter(directory)


def test_layers_that_follow_from_the_target_need_one(directory):
    values = {name: value for name, value in CONFIG.items() if name != "eagle_config"}
    (directory / "config.json").write_text(json.dumps(values))
    with pytest.raises(jm.CheckpointError, match="give load_drafter the model as its target"):
        jm.load_drafter(directory)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "key 'mask_token_id' is missing; expected int"),
        (VOCAB, "key 'mask_token_id' must be a whole number >= 0 and <= 28, got 29"),
    ],
)
def test_a_mask_that_is_no_token_is_refused(token, message, parallel):
    (parallel / "config.json").write_text(json.dumps({**PARALLEL, "mask_token_id": token}))
    with pytest.raises(jm.CheckpointError, match=message):
        jm.load_drafter(parallel)


def test_the_authors_form_cannot_hold_a_parallel_head(parallel, tmp_path):
    with pytest.raises(jm.CheckpointError, match=r"'eagle3'.*\['mask_token'\] would be lost"):
        jm.save_drafter(jm.load_drafter(parallel), tmp_path / "again", layout="eagle3")
