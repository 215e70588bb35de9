"""EAGLE-3 heads as the `speculators` library makes and saves them; it runs where that is installed."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, Qwen3Config

import jaxmodels as jm
from jaxmodels.layers.spec import filled
from jaxmodels.models.draft_heads.feature_head import Target

pytest.importorskip("speculators", reason="speculators is not installed", exc_type=ImportError)

WIDTH, VOCAB, KNOWN, STEPS = 16, 29, 11, 3
SIZES = {
    "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": 24, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 6, "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
}  # fmt: skip
FLAGS = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")


def theirs(layer, **flags):
    from speculators.config import SpeculatorsConfig, VerifierConfig
    from speculators.models.eagle3 import Eagle3SpeculatorConfig
    from speculators.models.eagle3.core import Eagle3DraftModel
    from speculators.proposals.greedy import GreedyTokenProposalConfig

    layer._attn_implementation = "eager"
    config = Eagle3SpeculatorConfig(
        transformer_layer_config=layer,
        draft_vocab_size=KNOWN,
        eagle_aux_hidden_state_layer_ids=[0, 1, 2],
        speculators_config=SpeculatorsConfig(
            algorithm="eagle3",
            proposal_methods=[GreedyTokenProposalConfig(speculative_tokens=STEPS)],
            default_proposal_method="greedy",
            verifier=VerifierConfig(name_or_path=None, architectures=[]),
        ),
        **flags,
    )
    torch.manual_seed(0)
    model = Eagle3DraftModel(config=config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    known = torch.tensor(sorted(np.random.default_rng(3).permutation(VOCAB)[:KNOWN].tolist()))
    flags_of = torch.zeros(VOCAB, dtype=torch.bool)
    flags_of[known] = True
    model.load_state_dict({"t2d": flags_of, "d2t": known - torch.arange(KNOWN)}, strict=False)
    return model


def their_logits(model, hidden, tokens):
    """Of each step of the training-time test."""
    steps, head = [], model.lm_head.forward
    model.lm_head.forward = lambda x: steps.append(head(x)) or steps[-1]
    documents = torch.zeros(1, tokens.shape[1], dtype=torch.long)
    with torch.no_grad():
        model(torch.tensor(hidden), torch.tensor(tokens), documents, ttt_steps=STEPS)
    return [step[0].numpy() for step in steps]


@pytest.mark.parametrize("kind", [Qwen3Config, LlamaConfig])
@pytest.mark.parametrize("flag", [None, *FLAGS])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_saved_head_loads_computes_and_goes_back(kind, flag, layers, tmp_path):
    model = theirs(kind(num_hidden_layers=layers, **SIZES), **({} if flag is None else {flag: True}))
    model.save_pretrained(tmp_path / "theirs")
    drafter = jm.load_drafter(tmp_path / "theirs")
    assert drafter.size == STEPS
    tokens = np.random.default_rng(0).integers(0, VOCAB, (1, 7))
    hidden = np.random.default_rng(1).standard_normal((1, 7, 3 * WIDTH)).astype(np.float32)
    expected = their_logits(model, hidden, tokens)
    head, column = drafter.head, 3
    streams = np.split(hidden, 3, axis=-1)
    taps = {name: jnp.asarray(s) for name, s in zip(head.taps, streams, strict=True)}
    feature = head.features(drafter.params, taps)[:, : column + 1]
    read, history = tokens[:, : column + 1], filled(head.init_history(1, 20), jnp.float32)
    for step in range(STEPS):
        predicted, history = head.extend(
            drafter.params,
            Target(None, None),
            jnp.asarray(read),
            feature,
            history,
            valid=jnp.asarray([read.shape[1]]),
        )
        np.testing.assert_allclose(predicted.logits[0, -1], expected[step][column], atol=1e-5)
        feature, read = predicted.features[:, -1:], tokens[:, column + step + 1 : column + step + 2]
    jm.save_drafter(drafter, tmp_path / "ours")
    before, after = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
