"""Canvases of DiffusionGemma against transformers' generate and the schedulers of both libraries.

Both sides are given the same random numbers: torch's draws are replaced by those that ours makes of its keys.
"""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion_gemma_models import build
from model_helpers import ARCHITECTURES

import jaxmodels as jm
from jaxmodels.decoding import MaskedDiffusion, Sample
from jaxmodels.decoding.buckets import answer_bucket, prompt_bucket
from jaxmodels.decoding.default import default_strategy
from jaxmodels.decoding.masked import FixedBlocks, ReadCausally, Recompute
from jaxmodels.decoding.masked.driver import NOISE, RULES
from jaxmodels.decoding.masked.remask import Renoise, TokenEdits
from jaxmodels.decoding.masked.stop import StableAndConfident
from jaxmodels.decoding.masked.unmask import EntropyBounded, Tempered, Towards
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.models.filling import MaskFilling

PROMPTS = [[5, 9, 31, 2, 47, 8, 8, 60, 13, 4, 22], [7, 7, 50, 11]]


@functools.cache
def loaded(case, sharpness):
    theirs = build(case, sharpness)
    return theirs, jm.load(theirs.directory, text_only=True)


class SharedDraws:
    """What torch is given in place of its own draws, in the order in which transformers asks for them.

    Ours draws what stands on a row's canvases at first by the row's key, and the proposals and the noise of
    its call number n by that key's number n. transformers is given one row at a time.
    """

    def __init__(self, config, seed, row):
        self.length, self.vocab = config.denoising.canvas_length, config.vocab_size
        self.key = jax.random.fold_in(jax.random.key(seed), row)
        slots = prompt_bucket(max(map(len, PROMPTS)), 2048) + answer_bucket(3 * self.length) + self.length - 1
        self.first = jax.random.randint(jax.random.fold_in(self.key, NOISE), (slots,), 0, self.vocab)
        self.begins_at, self.call, self.is_new = len(PROMPTS[row]), 0, True

    def multinomial(self, probs, num_samples):
        import torch

        each = jax.random.split(jax.random.fold_in(self.key, self.call), self.length)
        drawn = jax.vmap(jax.random.categorical)(each, jnp.log(jnp.asarray(probs.numpy())))
        return torch.tensor(np.asarray(drawn)).long()[:, None]

    def randint(self, low, high, size, device):
        import torch

        if self.is_new:
            self.is_new, drawn = False, self.first[self.begins_at : self.begins_at + self.length]
        else:
            rules = jax.random.fold_in(jax.random.fold_in(self.key, self.call), RULES)
            drawn, self.call = jax.random.randint(rules, (self.length,), 0, self.vocab), self.call + 1
        return torch.tensor(np.asarray(drawn)).long()[None]

    def next_canvas(self):
        self.begins_at, self.is_new = self.begins_at + self.length, True


def transformers_generate(theirs, row, draws, monkeypatch, *, entropy_bound, **settings):
    """(tokens of the answer, denoising steps)"""
    import torch
    from transformers.models.diffusion_gemma import generation_diffusion_gemma as module

    model = theirs.model
    settle, step, taken = model._finalize_canvas, model._denoising_step, []

    def finalised(**arguments):
        draws.next_canvas()
        return settle(**arguments)

    def counted(**arguments):
        taken.append(arguments["cur_step"])
        return step(**arguments)

    sampler = module.EntropyBoundSamplerConfig(entropy_bound)
    config = module.DiffusionGemmaGenerationConfig(sampler_config=sampler, pad_token_id=0, **settings)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "multinomial", draws.multinomial)
        patched.setattr(torch, "randint", draws.randint)
        patched.setattr(model, "_finalize_canvas", finalised)
        patched.setattr(model, "_denoising_step", counted)
        out = model.generate(torch.tensor([PROMPTS[row]]), generation_config=config).sequences
    return out[0, len(PROMPTS[row]) :].numpy(), len(taken)


@pytest.mark.parametrize(
    ("case", "sharpness", "steps", "bound", "stable", "entropy", "stop"),
    [
        ("longer_window", 1.0, 5, 2.0, 1, 0.9, 37),
        pytest.param("longer_canvas", 1.0, 9, 4.0, 2, 2.0, None, marks=pytest.mark.sweep),
        pytest.param("full_only", 1.0, 8, 1.0, 0, 1.0, None, marks=pytest.mark.sweep),
    ],
)
def test_answers_are_those_of_transformers(case, sharpness, steps, bound, stable, entropy, stop, monkeypatch):
    """Ragged prompts and canvases that end early in some rows, token for token and in as many steps."""
    theirs, model = loaded(case, sharpness)
    length = model.config.denoising.canvas_length
    strategy = MaskedDiffusion(
        blocks=FixedBlocks(length),
        steps=steps,
        unmask=Tempered(EntropyBounded(bound), Towards(0.8, 0.4)),
        remask=Renoise(),
        cache=ReadCausally(),
        stop=StableAndConfident(steps=stable, entropy=entropy),
        sampler=Sample(),
    )
    new = length + 2 if stop is None else 3 * length  # a canvas is never cut short, an answer is
    stops = [] if stop is None else [stop]
    ours = model.generate(PROMPTS, new, strategy, stop_tokens=stops, seed=3)
    all_taken = 0
    for row in range(len(PROMPTS)):
        answer, taken = transformers_generate(
            theirs, row, SharedDraws(model.config, 3, row), monkeypatch, max_new_tokens=new,
            max_denoising_steps=steps, t_max=0.8, t_min=0.4, entropy_bound=bound,
            stability_threshold=stable, confidence_threshold=entropy, eos_token_id=stop,
        )  # fmt: skip
        n = int(ours.lengths[row])
        np.testing.assert_array_equal(ours.tokens[row, :n], answer[:n])
        assert n == new or answer[n - 1] == stop
        all_taken += taken
    assert ours.stats.counters["calls"] == all_taken


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": Recompute()}, r"canvas by canvas.*use cache=ReadCausally\(\)"),
        (
            {"blocks": FixedBlocks(8)},
            r"on canvases of 5 \(canvas_length\); use blocks=FixedBlocks\(5\)",
        ),
        ({"remask": TokenEdits()}, "TokenEdits"),
    ],
)
def test_what_does_not_fit_canvases_is_refused(options, message):
    _, model = loaded("longer_window", 1.0)
    strategy = replace(default_strategy(model.config, 64), **options)
    with pytest.raises(ValueError, match=message):
        model.generate([[1, 2]], 10, strategy)


def test_canvases_are_for_models_that_read_them():
    config = replace(ARCHITECTURES["attention"], filling=MaskFilling(mask_token=3), mask=BIDIRECTIONAL)
    with pytest.raises(ValueError, match="the model reads no canvas"):
        MaskedDiffusion(cache=ReadCausally()).check_model(config, 32)
