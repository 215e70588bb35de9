"""A tiny Llama of transformers that sees both ways or by blocks, the same here, and the steps of our loop."""

import dataclasses
import functools
import tempfile

import numpy as np
import torch
import transformers
from model_helpers import quick_jit
from strategy_helpers import ready

import jaxmodels as jm
from jaxmodels.decoding.strategy import empty_output
from jaxmodels.layers.masks import BIDIRECTIONAL, BlockCausal
from jaxmodels.models.filling import MaskFilling

VOCAB = 40
MASK = VOCAB - 1


class Peer(torch.nn.Module):
    """The Llama with a mask of its own; it never proposes the mask token.

    calls: how often it was run.
    """

    def __init__(self, llama, block=None):
        super().__init__()
        self.llama, self.block, self.calls = llama, block, 0
        self.config, self.device, self.dtype = llama.config, llama.device, llama.dtype

    @torch.inference_mode()
    def forward(self, tokens, attention_mask=None, position_ids=None, groups=None):
        """`groups`, ascending numbers, say who is in which block; else blocks are cut by their length."""
        self.calls += 1
        place = torch.arange(tokens.shape[1])
        if groups is None:
            groups = place * 0 if self.block is None else place // self.block
        sees = groups[None, :] <= groups[:, None]
        additive = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)
        result = self.llama(tokens, attention_mask=additive[None, None], use_cache=False)
        result.logits[..., MASK] = -torch.inf
        return result

    def logits(self, canvas, groups=None):
        """float64[N, V] of one row."""
        tokens = torch.tensor(np.asarray(canvas, np.int64))[None]
        groups = None if groups is None else torch.tensor(groups)
        return self(tokens, groups=groups).logits[0].double().numpy()


@functools.cache
def models(block=None, offset=0):
    """(the `Peer`, our config, our params)"""
    torch.manual_seed(0)
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=VOCAB,
            initializer_range=0.3,
            tie_word_embeddings=False,
        )
    ).eval()
    with torch.no_grad():
        llama.lm_head.weight *= 2.5  # so that it is sure of some tokens
    with tempfile.TemporaryDirectory() as directory:
        llama.save_pretrained(directory)
        model = jm.load(directory, dtype="float32")
    mask = BIDIRECTIONAL if block is None else BlockCausal(block)
    filling = MaskFilling(mask_token=MASK, offset=offset)
    return Peer(llama, block), dataclasses.replace(model.config, mask=mask, filling=filling), model.params


_prefill = quick_jit(
    lambda config, params, strategy, *arrays: strategy.prefill(config, params, *arrays),
    static_argnames=("config",),
)
_step = quick_jit(
    lambda config, params, strategy, *arrays: strategy.step(config, params, *arrays),
    static_argnames=("config",),
)


def canvases(config, params, strategy, prompt, new):
    """(prompt and answer behind each step of one row, what was emitted)"""
    planned = ready(config, params, strategy, [list(map(int, prompt))], new)
    output = empty_output(1, planned.new_slots, planned.request.pad_token)
    carry = _prefill(config, params, strategy, planned.request, planned.cache, output)
    steps = []
    while not carry.output.done.all():
        carry = _step(config, params, strategy, planned.request, carry)
        steps.append(np.asarray(carry.canvas.tokens[0, : len(prompt) + new]).tolist())
        assert len(steps) < 20 * new
    return steps, np.asarray(carry.output.tokens[0, :new]).tolist()


def prompts(*lengths):
    """Random prompts that end so."""
    rng = np.random.default_rng(1)
    return [rng.integers(0, MASK, length) for length in lengths]
