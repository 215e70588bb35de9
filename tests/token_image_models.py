"""Small configurations of models of codes, as their files have them."""

AMUSED = {
    "hidden_size": 24,
    "cond_embed_dim": 10,
    "micro_cond_encode_dim": 6,
    "micro_cond_embed_dim": 30,
    "encoder_hidden_size": 14,
    "vocab_size": 40,
    "codebook_size": 32,
    "in_channels": 12,
    "block_out_channels": 16,
    "num_res_blocks": 2,
    "block_num_heads": 2,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
}

MAGE = {
    "_class_name": "MaskedGenerativeEncoderViT",
    "img_size": 64,
    "patch_size": 16,
    "embed_dim": 24,
    "depth": 3,
    "num_heads": 4,
    "decoder_embed_dim": 18,
    "decoder_depth": 2,
    "decoder_num_heads": 3,
    "codebook_size": 20,
}
