"""VAR, M-VAR and their codes over published tensors, in torch: written from the papers' rules, not from our
layers. Mamba-2 is that of `transformers`.

`state` is a dict of torch tensors under the names of the published files.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from transformers.models.mamba2.modeling_mamba2 import Mamba2Config, Mamba2Mixer


def refined(state, h, scale, scales, convolutions=4):
    """What a scale's enlarged vectors [B, C, H, W] become: half of them, half of a convolution."""
    edge = 1 / 3 / convolutions if convolutions == 4 else 1 / 2 / convolutions
    ticks = np.linspace(edge, 1 - edge, convolutions)
    name = f"quantize.quant_resi.qresi_ls.{int(np.argmin(np.abs(ticks - scale / (scales - 1))))}"
    conv = F.conv2d(h, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)
    return 0.5 * h + 0.5 * conv


def added(state, sides, scale, codes):
    """What the codes [B, n] of a scale add to the latents [B, C, H, W]."""
    side, last = sides[scale], sides[-1]
    vectors = state["quantize.embedding.weight"][codes]
    h = vectors.transpose(1, 2).reshape(len(codes), -1, side, side)
    if side != last:
        h = F.interpolate(h, size=(last, last), mode="bicubic")
    return refined(state, h, scale, len(sides))


def reduced(latents, side):
    """Latents [B, C, H, W] at another scale, as tokens [B, side^2, C]."""
    return F.interpolate(latents, size=(side, side), mode="area").flatten(2).transpose(1, 2)


def quantised(state, sides, latents):
    """The codes of each scale of latents [B, C, H, W]."""
    codebook, missing, codes = state["quantize.embedding.weight"], latents.clone(), []
    for scale, side in enumerate(sides):
        wanted = reduced(missing, side)
        codes.append(torch.cdist(wanted, codebook[None]).argmin(-1))
        missing = missing - added(state, sides, scale, codes[-1])
    return codes


class Transformer:
    """VAR's network, which keeps keys and values from scale to scale."""

    def __init__(self, state, sides, heads, cosine=True):
        self.state, self.sides, self.heads, self.cosine = state, sides, heads, cosine
        self.depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
        self.kept = [None] * self.depth

    def scale(self, scale, condition, shown):
        """The scores of a scale's codes; shown: latents at its places, None for the first."""
        state, first = self.state, sum(side**2 for side in self.sides[:scale])
        size = self.sides[scale] ** 2
        if shown is None:
            x = condition[:, None] + state["pos_start"]
        else:
            x = F.linear(shown, state["word_embed.weight"], state["word_embed.bias"])
        x = x + state["pos_1LC"][:, first : first + size] + state["lvl_embed.weight"][scale]
        for block in range(self.depth):
            x = self.block(block, x, condition)
        scale_and_shift = F.linear(
            F.silu(condition), state["head_nm.ada_lin.1.weight"], state["head_nm.ada_lin.1.bias"]
        )
        by, to = scale_and_shift[:, None].chunk(2, -1)
        return F.linear(self.norm(x) * (1 + by) + to, state["head.weight"], state["head.bias"])

    def norm(self, x):
        return F.layer_norm(x, x.shape[-1:], eps=1e-6)

    def block(self, i, x, condition):
        state, name = self.state, f"blocks.{i}."
        if f"{name}ada_gss" in state:
            shared = F.linear(
                F.silu(condition), state["shared_ada_lin.1.weight"], state["shared_ada_lin.1.bias"]
            )
            made = state[f"{name}ada_gss"][0] + shared.reshape(len(x), 6, -1)
        else:
            made = F.linear(
                F.silu(condition), state[f"{name}ada_lin.1.weight"], state[f"{name}ada_lin.1.bias"]
            ).reshape(len(x), 6, -1)
        gate1, gate2, by1, by2, to1, to2 = made[:, :, None].unbind(1)
        x = x + gate1 * self.attention(i, self.norm(x) * (1 + by1) + to1)
        y = self.norm(x) * (1 + by2) + to2
        y = F.linear(y, state[f"{name}ffn.fc1.weight"], state[f"{name}ffn.fc1.bias"])
        y = F.gelu(y, approximate="tanh")
        return x + gate2 * F.linear(y, state[f"{name}ffn.fc2.weight"], state[f"{name}ffn.fc2.bias"])

    def attention(self, i, x):
        state, name = self.state, f"blocks.{i}.attn."
        q_bias, v_bias = state[f"{name}q_bias"], state[f"{name}v_bias"]
        bias = torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
        qkv = F.linear(x, state[f"{name}mat_qkv.weight"], bias)
        q, k, v = qkv.reshape(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        factor = 0.25 / math.sqrt(q.shape[-1])
        if self.cosine:
            factor = 1.0
            q = F.normalize(q, dim=-1) * state[f"{name}scale_mul_1H11"].clamp_max(math.log(100)).exp()
            k = F.normalize(k, dim=-1)
        k, v = self.seen(i, k, v)
        out = F.scaled_dot_product_attention(q, k, v, scale=factor).transpose(1, 2).flatten(2)
        return F.linear(out, state[f"{name}proj.weight"], state[f"{name}proj.bias"])

    def seen(self, i, k, v):
        """The keys and values that a block's queries see, those of the scale included."""
        if self.kept[i] is not None:
            k, v = (torch.cat([old, new], 2) for old, new in zip(self.kept[i], (k, v), strict=True))
        self.kept[i] = (k, v)
        return k, v


class DecoupledTransformer(Transformer):
    """M-VAR's network: attention sees its scale alone, and Mamba-2 runs again over what each block was shown
    of all scales so far."""

    def seen(self, i, k, v):
        return k, v

    def block(self, i, x, condition):
        state, name = self.state, f"blocks.{i}."
        made = F.linear(F.silu(condition), state[f"{name}ada_lin.1.weight"], state[f"{name}ada_lin.1.bias"])
        gates, by, to = made.reshape(len(x), 3, 3, 1, -1).unbind(1)
        x = x + gates[:, 0] * self.attention(i, self.norm(x) * (1 + by[:, 0]) + to[:, 0])
        self.kept[i] = x if self.kept[i] is None else torch.cat([self.kept[i], x], 1)
        across = self.mamba(i, self.norm(self.kept[i]) * (1 + by[:, 1]) + to[:, 1])
        x = x + gates[:, 1] * across[:, -x.shape[1] :]
        y = self.norm(x) * (1 + by[:, 2]) + to[:, 2]
        y = F.linear(y, state[f"{name}ffn.fc1.weight"], state[f"{name}ffn.fc1.bias"])
        y = F.gelu(y, approximate="tanh")
        return x + gates[:, 2] * F.linear(y, state[f"{name}ffn.fc2.weight"], state[f"{name}ffn.fc2.bias"])

    def mamba(self, i, x):
        name, width = f"blocks.{i}.mamba.", x.shape[-1]
        config = Mamba2Config(
            hidden_size=width, expand=2, num_heads=2 * width // 64, head_dim=64, state_size=64, n_groups=1,
            conv_kernel=4, chunk_size=16, layer_norm_epsilon=1e-5,
        )  # fmt: skip
        mixer = Mamba2Mixer(config, 0)
        own = {key.removeprefix(name): value for key, value in self.state.items() if key.startswith(name)}
        mixer.load_state_dict(own, strict=True)
        with torch.no_grad():
            return mixer(x)


def network_of(state, sides, heads, cosine=True):
    """The network that the tensors belong to."""
    decoupled = any(".mamba." in name for name in state)
    return (DecoupledTransformer if decoupled else Transformer)(state, sides, heads, cosine)


def drawn(state, codes_state, sides, heads, classes, guidance, cosine=True):
    """The most probable codes of all scales, each under those before it, and the latents they add up to."""
    none = state["class_emb.weight"].shape[0] - 1
    rows = torch.cat([classes, torch.full_like(classes, none)])
    condition = state["class_emb.weight"][rows]
    network, codes, latents = network_of(state, sides, heads, cosine), [], 0.0
    for scale, side in enumerate(sides):
        shown = reduced(latents, side).repeat(2, 1, 1) if scale else None
        logits = network.scale(scale, condition, shown)
        t = guidance * scale / (len(sides) - 1)
        logits = (1 + t) * logits[: len(classes)] - t * logits[len(classes) :]
        codes.append(logits.argmax(-1))
        latents = latents + added(codes_state, sides, scale, codes[-1])
    return torch.cat(codes, 1), latents
