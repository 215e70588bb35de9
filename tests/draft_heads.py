"""Draft heads with random weights for the tiny models of the tests."""

import jax.numpy as jnp
import numpy as np
from model_helpers import D_MODEL, VOCAB, attention, random_params

from jaxmodels.decoding import MTP, FeatureDrafter, MedusaDrafter, PEagleDrafter
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.models.block import Block
from jaxmodels.models.draft_heads.eagle3 import Eagle3, FusingBlock
from jaxmodels.models.draft_heads.medusa import Medusa
from jaxmodels.models.draft_heads.mtp import MTPHead, MTPModule

NORM = RMSNorm(dim=D_MODEL)


def eagle3(**fields):
    """A head for the tiny decoders; fields of the `FusingBlock` go to it."""
    block = FusingBlock(
        embedding_norm=NORM,
        feature_norm=NORM,
        mixer=attention(input_dim=2 * D_MODEL),
        ffn_norm=NORM,
        ffn=GatedMLP(d_model=D_MODEL, d_ff=12),
        norm_before_residual=fields.pop("norm_before_residual", False),
    )
    whole = {
        "target_vocab_size": VOCAB,
        "vocab_size": VOCAB,
        "target_width": D_MODEL,
        "d_model": D_MODEL,
        "layers": (0, 1, 2),
        "blocks": (block,),
        "norm": NORM,
    }
    return Eagle3(**{**whole, **fields})


def eagle3_drafter(size=3, known=None, **fields):
    """A drafter with a head that knows the first `known` of a permutation of the vocabulary, or all of it."""
    head = eagle3(**fields) if known is None else eagle3(vocab_size=known, **fields)
    return FeatureDrafter(
        head=head, params=random_params(head.spec()), token_ids=known_tokens(known), size=size
    )


def peagle_drafter(size=3, known=None, **fields):
    """As `eagle3_drafter`, with a parallel head."""
    drafter = eagle3_drafter(size, known, **{"mask_token": VOCAB - 1, **fields})
    return PEagleDrafter(head=drafter.head, params=drafter.params, token_ids=drafter.token_ids, size=size)


def mtp(config, modules=1, size=3, seed=0):
    """A drafter with modules of attention for a tiny decoder."""
    norm = RMSNorm(dim=config.d_model)
    block = Block(mixer_norm=norm, mixer=attention(), ffn_norm=norm, ffn=GatedMLP(d_model=D_MODEL, d_ff=12))
    module = MTPModule(embed_norm=norm, hidden_norm=norm, blocks=(block,), final_norm=norm)
    head = MTPHead(
        vocab_size=config.vocab_size,
        d_model=config.d_model,
        num_layers=len(config.blocks),
        modules=(module,) * modules,
    )
    return MTP(head=head, params=random_params(head.spec(), seed), size=size)


def medusa(**fields):
    """Heads for the tiny decoders."""
    whole = {"target_vocab_size": VOCAB, "vocab_size": VOCAB, "d_model": D_MODEL, "heads": 3}
    return Medusa(**{**whole, **fields})


def medusa_drafter(size=None, known=None, **fields):
    """A chain by such heads; `known` as for `eagle3_drafter`."""
    head = medusa(**fields) if known is None else medusa(vocab_size=known, **fields)
    return MedusaDrafter(
        head=head, params=random_params(head.spec()), token_ids=known_tokens(known), size=size
    )


def known_tokens(count):
    """The first `count` of a permutation of the vocabulary, in order; None for None."""
    if count is None:
        return None
    return jnp.asarray(np.sort(np.random.default_rng(3).permutation(VOCAB)[:count]), jnp.int32)
