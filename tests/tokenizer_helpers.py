"""Tokenizers that several tests share."""

from functools import cache

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from jaxmodels.checkpoints.tokenizer import Tokenizer

CORPUS = ["the cat sat on the mat", "naïve café, Zürich: 日本語 🙂🙂", "def f(x):\n    return x  # 1 2 3"]
TEMPLATE = "{{ bos_token }}{% for m in messages %}<|user|>{{ m.content }}{% endfor %}"
ROLES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


@cache
def byte_level() -> Tokenizer:
    """A byte-level BPE with every byte, special tokens, and added tokens that are text."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>", "<pad>", "<|user|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens(["<tool>", " two  spaces ", "éĠ", "日本"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return Tokenizer.from_backend(backend, special_tokens=ROLES, chat_template=TEMPLATE)
