"""TarFlow over published tensors, in torch: written from the paper's rules, not from our layers.

`state` is a dict of torch tensors under the names of the published files.
"""

import torch
import torch.nn.functional as F


def steps_of(state):
    """How many steps a flow has."""
    return 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))


def read(state, number, x, classes, heads, temperature=1.0):
    """The log scales and shifts that a step says of the token behind each of x [B, T, C], which are in the
    step's order. classes: a list, None in it for no class; or None."""
    name = f"blocks.{number}."
    layers = 1 + max(int(k.split(".")[3]) for k in state if k.startswith(f"{name}attn_blocks."))
    positions = state[f"{name}pos_embed"]
    positions = positions.flip(0) if number % 2 else positions
    h = linear(state, f"{name}proj_in", x) + positions[: x.shape[1]]
    if f"{name}class_embed" in state:
        table = state[f"{name}class_embed"]
        rows = [table.mean(0) if c is None else table[c] for c in classes or [None] * len(x)]
        h = h + torch.stack(rows)
    for layer in range(layers):
        block = f"{name}attn_blocks.{layer}."
        h = h + attention(state, block + "attention.", h, heads, temperature)
        y = linear(state, f"{block}mlp.main.0", norm(state, f"{block}mlp.norm", h))
        h = h + linear(state, f"{block}mlp.main.2", F.gelu(y))
    return linear(state, f"{name}proj_out", h).chunk(2, -1)


def linear(state, name, x):
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def norm(state, name, x):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def attention(state, name, x, heads, temperature):
    qkv = linear(state, f"{name}qkv", norm(state, f"{name}norm", x))
    q, k, v = qkv.reshape(*x.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
    scale = q.shape[-1] ** -0.5 / temperature
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    return linear(state, f"{name}proj", out.transpose(1, 2).flatten(2))


def forward(state, x, classes, heads):
    """The noise of tokens [B, T, C], and the sum over steps of minus the mean log scale."""
    scaled = 0.0
    for number in range(steps_of(state)):
        x = x.flip(1) if number % 2 else x
        log_scale, shift = (F.pad(a[:, :-1], (0, 0, 1, 0)) for a in read(state, number, x, classes, heads))
        x, scaled = (x - shift) * (-log_scale).exp(), scaled - log_scale.mean((1, 2))
        x = x.flip(1) if number % 2 else x
    return x, scaled


def backward(state, z, classes, heads, guidance=0.0, rises=False, temperature=1.0):
    """The tokens whose noise z is, one after the other."""
    x = z * state["var"].sqrt()
    for number in reversed(range(steps_of(state))):
        x = x.flip(1) if number % 2 else x.clone()
        for i in range(x.shape[1] - 1):
            known = x[:, : i + 1]
            log_scale, shift = (a[:, -1] for a in read(state, number, known, classes, heads))
            if guidance:
                g = guidance * ((i + 1) / (x.shape[1] - 1) if rises else 1.0)
                other, moved = (
                    a[:, -1] for a in read(state, number, known, None, heads, temperature=temperature)
                )
                log_scale, shift = log_scale + g * (log_scale - other), shift + g * (shift - moved)
            x[:, i + 1] = x[:, i + 1] * log_scale.exp() + shift
        x = x.flip(1) if number % 2 else x
    return x


def patches(images, patch):
    """Tokens of images [B, C, H, W]."""
    return F.unfold(images, patch, stride=patch).transpose(1, 2)
