"""Two byte-level BPEs of a few dozen tokens that cut the same letters differently, and texts told by hand."""

from functools import cache

import tokenizers
from model_helpers import VOCAB
from tokenizers import decoders, models, pre_tokenizers, trainers

from jaxmodels.checkpoints.tokenizer import Tokenizer

DRAFT_VOCAB = 37
END = "</s>"


def trained(text, size, special) -> Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    backend.train_from_iterator([text], trainer)
    assert backend.get_vocab_size() == size
    return Tokenizer.from_backend(backend, special_tokens={"eos_token": END})


@cache
def target() -> Tokenizer:
    return trained(
        "the cat sat on the mat that the hen ate, the neat tea, a ton, the coat " * 3, VOCAB, [END]
    )


@cache
def draft() -> Tokenizer:
    """It has a token without a text, and the end of a text has another id."""
    text = "ten cats chase a moth. so the cheat ate the hot meat, then some sent the maths home " * 3
    return trained(text, DRAFT_VOCAB, ["<pad>", END])


def letters(order) -> Tokenizer:
    """One letter for each token: letter number v is token ``order[v]``, and none is the start of another."""
    alphabet = [chr(ord("A") + i) for i in range(len(order))]
    vocabulary = {letter: int(number) for letter, number in zip(alphabet, order, strict=True)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.decoder = decoders.ByteLevel()
    return Tokenizer.from_backend(backend)


def symbols(tokenizer):
    """The text of each token: its bytes, or its name where both tokenizers have that special token."""
    texts = [tuple(data) for data in tokenizer.token_bytes()]
    for number, name in tokenizer.special_texts().items():
        texts[number] = (name,) if name == END else ()
    return texts


def told(text, tokenizer, size):
    """Symbols cut into up to `size` longest tokens: (tokens, where each ends)."""
    ids = {}
    for number, name in enumerate(symbols(tokenizer)):
        if name:
            ids.setdefault(name, number)
    tokens, ends, at = [], [], 0
    while at < len(text) and len(tokens) < size:
        rest = text[at:]
        is_inside = any(name[: len(rest)] == rest and len(name) > len(rest) for name in ids)
        found = [n for n in range(1, len(rest) + 1) if rest[:n] in ids]
        if not found or (is_inside and rest not in ids):
            break
        at += max(found)
        tokens.append(ids[rest[: max(found)]])
        ends.append(at)
    return tokens, ends
