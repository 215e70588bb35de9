"""Tiny text encoders of transformers with random weights, and tokenizers to go with them."""

import json
from functools import cache

import tokenizers
import transformers
from diffusers_modules import randomised
from tokenizers import models, normalizers, pre_tokenizers, trainers

CORPUS = ["a photo of a cat on the mat", "Zürich, in the style of a naïve painter: 3 boats!", "it's dawn"] * 3


@cache
def clip_vocabulary():
    """What stands in ``vocab.json`` and ``merges.txt``, of words as CLIP cuts them."""
    backend = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    held = json.loads(backend.to_str())["model"]
    vocabulary = dict(held["vocab"])
    for letter in sorted(alphabet):
        vocabulary.setdefault(letter + "</w>", len(vocabulary))
    for token in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[token] = len(vocabulary)
    return vocabulary, [tuple(merge) for merge in held["merges"]]


def clip_tokenizer(length=20, **options):
    """CLIP's, whose texts have up to `length` tokens."""
    vocabulary, merges = clip_vocabulary()
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length, **options)


def t5_tokenizer(length=512, **options):
    """T5's, of pieces of words with a space in front."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    pieces = [tuple(piece) for piece in json.loads(backend.to_str())["model"]["vocab"]]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=length, **options)


def clip(tokenizer, width=12, projection=None, seed=0, positions=20, **options):
    """A text encoder of CLIP, with a projection where one is asked for."""
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=positions,
        projection_dim=projection,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **options,
    )
    if projection is None:
        return randomised(transformers.CLIPTextModel(config), seed)
    return randomised(transformers.CLIPTextModelWithProjection(config), seed)


def t5(tokenizer, width=24, seed=0):
    """An encoder of T5."""
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=6,
        d_ff=20,
        num_layers=2,
        num_heads=3,
        feed_forward_proj="gated-gelu",
    )
    return randomised(transformers.T5EncoderModel(config), seed)
