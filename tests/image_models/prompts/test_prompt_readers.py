"""Prompts of each pipeline as diffusers encodes them, with text encoders and tokenizers read from files."""

import inspect
from dataclasses import replace
from types import SimpleNamespace

import diffusers
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from diffusers_modules import assert_close, randomised
from prompt_encoders import clip, clip_tokenizer, t5, t5_tokenizer

from jaxmodels.checkpoints.components import TEXT_ENCODER, TOKENIZER, Reading, Writing
from jaxmodels.image_models.conditions import Told
from jaxmodels.image_models.prompts.amused import AmusedPrompts
from jaxmodels.image_models.prompts.encoder import PromptEncoder
from jaxmodels.image_models.prompts.flux import FluxPrompts
from jaxmodels.image_models.prompts.hidream import HiDreamPrompts
from jaxmodels.image_models.prompts.pixart import PixArtPrompts
from jaxmodels.image_models.prompts.prompts import Prompts
from jaxmodels.image_models.prompts.sana import SanaPrompts
from jaxmodels.image_models.prompts.sd3 import SD3Prompts
from jaxmodels.models.denoisers.text import Text

PROMPTS = [
    "A cat on the mat ",
    "Zürich, in the style of a naïve painter: 3 boats! It's dawn, a photo of a cat",
]
TOLD = Told(height=16, width=24, strength=3.5)
READING = Reading(dtype=np.dtype("float32"), progress=None, allow_pickle=False, load=lambda folder: None)
WRITING = Writing(max_shard_bytes=None, progress=None, save=lambda model, folder: None)


@pytest.fixture
def ours(tmp_path):
    """An encoder of transformers and its tokenizer, as read from files that were written again."""

    def read(encoder, tokenizer):
        folders = [tmp_path / f"{i}-{len(list(tmp_path.iterdir()))}" for i in range(4)]
        for part, folder in zip((encoder, tokenizer), folders, strict=False):
            part.save_pretrained(folder)
        for component, first, again in zip((TEXT_ENCODER, TOKENIZER), folders, folders[2:], strict=False):
            component.write(component.read(first, READING), again, WRITING)
        part, words = TEXT_ENCODER.read(folders[2], READING), TOKENIZER.read(folders[3], READING)
        assert TEXT_ENCODER.name(part) == ("transformers", type(encoder).__name__)
        assert TOKENIZER.name(words)[1] == type(tokenizer).__name__
        return PromptEncoder(config=part.config, params=part.params, tokenizer=words)

    return read


def parts(pipeline, **components):
    """A pipeline of diffusers with these components alone."""
    names = set(inspect.signature(pipeline.__init__).parameters) - {"self"}
    return pipeline(**{name: components.get(name) for name in names})


def test_pixart_reads_prompts_as_diffusers(ours):
    words = t5_tokenizer()
    encoder = t5(words)
    theirs = parts(diffusers.PixArtAlphaPipeline, text_encoder=encoder, tokenizer=words)
    with torch.no_grad():
        tokens, seen, none, none_seen = theirs.encode_prompt(PROMPTS, negative_prompt="")
    reader = PixArtPrompts(encoder=ours(encoder, words))
    found = reader.read(PROMPTS)
    assert_close(found.tokens, tokens)
    np.testing.assert_array_equal(found.seen, seen.bool().numpy())
    empty = Prompts(reader=reader, tells_size=True).nothing(2, TOLD)
    assert_close(empty.tokens, none)
    np.testing.assert_array_equal(empty.seen, none_seen.bool().numpy())
    np.testing.assert_array_equal(empty.resolution, [[16, 24], [16, 24]])


@pytest.mark.parametrize("with_t5", [True, False])
def test_sd3_reads_prompts_as_diffusers(ours, with_t5):
    words, others, t5_words = clip_tokenizer(), clip_tokenizer(pad_token="!"), t5_tokenizer()
    clips = clip(words, 12, projection=7), clip(others, 9, projection=5, seed=1, hidden_act="gelu")
    third = t5(t5_words, 24) if with_t5 else None
    width = diffusers.SD3Transformer2DModel(
        joint_attention_dim=24, num_layers=1, attention_head_dim=8, num_attention_heads=3, sample_size=8
    )
    theirs = parts(
        diffusers.StableDiffusion3Pipeline,
        text_encoder=clips[0],
        text_encoder_2=clips[1],
        text_encoder_3=third,
        tokenizer=words,
        tokenizer_2=others,
        tokenizer_3=t5_words,
        transformer=width,
    )
    with torch.no_grad():
        tokens, none, pooled, none_pooled = theirs.encode_prompt(
            PROMPTS, None, None, max_sequence_length=30, negative_prompt=""
        )
    reader = SD3Prompts(
        clips=(ours(clips[0], words), ours(clips[1], others)),
        t5=ours(third, t5_words) if with_t5 else None,
        width=24,
        length=30,
    )
    found = reader.read(PROMPTS)
    assert_close(found.tokens, tokens)
    assert_close(found.pooled, pooled)
    empty = Prompts(reader=reader).nothing(2, TOLD)
    assert_close(empty.tokens, none)
    assert_close(empty.pooled, none_pooled)


def test_flux_reads_prompts_as_diffusers(ours):
    words, t5_words = clip_tokenizer(), t5_tokenizer()
    first, second = clip(words), t5(t5_words)
    theirs = parts(
        diffusers.FluxPipeline,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=words,
        tokenizer_2=t5_words,
    )
    with torch.no_grad():
        tokens, pooled, _ = theirs.encode_prompt(PROMPTS, None, max_sequence_length=40)
    reader = FluxPrompts(clip=ours(first, words), t5=ours(second, t5_words), length=40)
    found = Prompts(reader=reader, tells_strength=True).rows(PROMPTS, TOLD)
    assert_close(found.tokens, tokens)
    assert_close(found.pooled, pooled)
    np.testing.assert_array_equal(found.guidance, [3.5, 3.5])


@pytest.mark.parametrize("instruction", ["", "Describe it.\nIn the style of the mat: "])
def test_sana_reads_prompts_as_diffusers(ours, instruction):
    words = t5_tokenizer()
    config = transformers.Gemma2Config(
        vocab_size=len(words),
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=6,
        sliding_window=400,
        query_pre_attn_scalar=6,
    )
    encoder = randomised(transformers.Gemma2Model(config))
    theirs = parts(diffusers.SanaPipeline, text_encoder=encoder, tokenizer=words)
    lines = instruction.split("\n") if instruction else None
    with torch.no_grad():
        tokens, seen, none, none_seen = theirs.encode_prompt(
            PROMPTS, max_sequence_length=30, complex_human_instruction=lines
        )
    reader = SanaPrompts(encoder=ours(encoder, words), instruction=instruction, length=30)
    found = reader.read(PROMPTS)
    np.testing.assert_array_equal(found.seen, seen.bool().numpy())
    assert_close(found.tokens, tokens, 3e-5)  # torch adds up in another order with other threads
    prompts = Prompts(reader=reader)
    for empty in (prompts.nothing(2, TOLD), prompts.away(["", ""], TOLD)):
        assert_close(empty.tokens, none)
        np.testing.assert_array_equal(empty.seen, none_seen.bool().numpy())


@pytest.mark.parametrize("layers", [1, 3])
def test_hidream_reads_prompts_as_diffusers(ours, layers):
    words, t5_words = clip_tokenizer(), t5_tokenizer(30)
    clips = clip(words, 12, projection=7), clip(words, 9, projection=5, seed=1)
    third = t5(t5_words)
    llama_words = t5_tokenizer(25, pad_token=None)
    config = transformers.LlamaConfig(
        vocab_size=len(llama_words),
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=3,
        num_attention_heads=2,
    )
    fourth = randomised(transformers.LlamaForCausalLM(config))
    theirs = parts(
        diffusers.HiDreamImagePipeline,
        text_encoder=clips[0],
        text_encoder_2=clips[1],
        text_encoder_3=third,
        text_encoder_4=fourth,
        tokenizer=words,
        tokenizer_2=words,
        tokenizer_3=t5_words,
        tokenizer_4=llama_words,
    )
    with torch.no_grad():
        tokens, _, states, _, pooled, _ = theirs.encode_prompt(
            PROMPTS, do_classifier_free_guidance=False, max_sequence_length=20
        )
    reader = HiDreamPrompts(
        clips=(ours(clips[0], words), ours(clips[1], words)),
        t5=ours(third, t5_words),
        llama=ours(fourth, llama_words),
        layers=layers,
        length=20,
    )
    found = reader.read(PROMPTS)
    assert_close(found.tokens, tokens)
    assert_close(found.pooled, pooled)
    assert_close(found.states, states.movedim(0, 1)[:, :layers])
    with pytest.raises(ValueError, match=r"reads 4 blocks \(llama_layers\) of text_encoder_4, which has 3"):
        replace(reader, layers=4)


def test_amused_reads_prompts_as_diffusers(ours):
    """That pipeline hands what it makes of prompts to its network alone, which is one that notes it here."""
    words = clip_tokenizer()
    encoder = clip(words, 12, projection=7)
    noted = {}

    class Network(torch.nn.Module):
        config = SimpleNamespace(sample_size=2)
        device, dtype = torch.device("cpu"), torch.float32

        def forward(self, codes, **given):
            noted.update(given)
            return torch.zeros(len(codes), 8, *codes.shape[1:])

    vqvae = diffusers.VQModel(
        block_out_channels=(4,), norm_num_groups=1, num_vq_embeddings=8, latent_channels=3
    )
    theirs = diffusers.AmusedPipeline(vqvae, words, encoder, Network(), diffusers.AmusedScheduler(7))
    with torch.no_grad():
        theirs(PROMPTS, guidance_scale=1.0, num_inference_steps=1, height=2, width=4, output_type="latent")
    found = AmusedPrompts(encoder=ours(encoder, words)).read(PROMPTS, 2, 4)
    assert_close(found.tokens, noted["encoder_hidden_states"])
    assert_close(found.pooled, noted["pooled_text_emb"])
    assert_close(found.described, noted["micro_conds"])


def test_texts_are_taken_as_they_are_and_anything_else_is_refused():
    conditions = Prompts(reader=PixArtPrompts(encoder=None), tells_strength=True)
    text = conditions.rows(Text(tokens=jnp.ones((1, 2, 3))), TOLD)
    np.testing.assert_array_equal(text.tokens, np.ones((1, 2, 3)))
    for asked in (3, [], ["a", 3], None):
        with pytest.raises(ValueError, match="draws prompts, one text or several, got"):
            conditions.rows(asked, TOLD)


def test_tokens_that_the_encoder_does_not_know_are_refused(ours):
    words = clip_tokenizer()
    one = ours(clip(words), words)
    fewer = replace(one, config=replace(one.config, vocab_size=500))
    with pytest.raises(ValueError, match=r"gives the token 555, .* embeddings of 500 tokens \(vocab_size\)"):
        fewer.encode_whole(["a cat"], 8)


def test_encoders_that_do_not_fit_the_denoiser_are_refused(ours):
    words = clip_tokenizer()
    one = ours(clip(words, 12, projection=7), words)
    with pytest.raises(ValueError, match=r"\[12, 12\] features are wider than the text of 20 \(joint_attent"):
        SD3Prompts(clips=(one, one), t5=None, width=20)
    with pytest.raises(ValueError, match=r"text_encoder_3 have 12 features, .* text of 24"):
        SD3Prompts(clips=(one, one), t5=one, width=24)
