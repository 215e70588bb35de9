"""Modules of diffusers with random weights, and those weights as parameters of our layers."""

import json

import jax.numpy as jnp
import numpy as np
import torch
from safetensors.numpy import load_file

torch.set_num_threads(1)


def randomised(module, seed=0):
    """The module with every parameter away from its initial value: gates open, norms and biases uneven."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = rng.standard_normal(tuple(parameter.shape))
            if parameter.ndim == 1:
                noise = 0.3 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
            elif "table" in name:
                noise = 0.5 * noise
            else:
                noise = noise / np.sqrt(np.prod(parameter.shape[1:]))
            parameter.copy_(torch.tensor(noise))
    return module.eval()


def saved_module(module, tmp_path_factory):
    """(the module, its parameters drawn; the directory it was saved to)"""
    directory = tmp_path_factory.mktemp("module")
    randomised(module).save_pretrained(directory)
    return module, directory


def draw(*shape, seed=0):
    """The same float32 values as a jax and a torch array."""
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return jnp.asarray(values), torch.tensor(values)


def weights_of(module):
    """The parameters of a module by name, as numpy arrays."""
    return {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}


def stacked(layer, parts):
    """A `torch.nn.Linear` with several outputs of equal width, as a `ProjectedModulation`'s parameters."""
    w, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    return {"w": jnp.asarray(w.reshape(parts, -1, w.shape[1])), "b": jnp.asarray(b.reshape(parts, -1))}


def attention_params(module, heads, names=("to_q", "to_k", "to_v", "to_out.0"), norms=("norm_q", "norm_k")):
    """A diffusers attention as parameters of an `Attention`; layers that it lacks are left out."""
    weights, params = weights_of(module), {}
    for part, name in zip("qkvo", names, strict=True):
        w, b = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
        if w is not None:
            shape = (w.shape[0], heads, -1) if part == "o" else (heads, -1, w.shape[1])
            params[f"w_{part}"] = jnp.asarray(w.reshape(shape))
        if b is not None:
            params[f"b_{part}"] = jnp.asarray(b if part == "o" else b.reshape(heads, -1))
    for ours, name in zip(("query_norm", "key_norm"), norms, strict=True):
        if f"{name}.weight" in weights:
            params[ours] = {"scale": jnp.asarray(weights[f"{name}.weight"])}
    return params


def assert_close(ours, theirs, tolerance=1e-5):
    """Equal up to `tolerance` of the largest value."""
    expected = theirs.detach().float().numpy()
    difference = np.abs(np.asarray(ours, np.float32) - expected).max()
    assert difference <= tolerance * np.abs(expected).max()


def assert_saved_alike(load, save, directory, again):
    """What we load from a directory and save to another has the same tensors and configuration."""
    save(*load(directory), again)
    before, after = (load_file(d / "diffusion_pytorch_model.safetensors") for d in (directory, again))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name], tensor)
    given, written = (json.loads((d / "config.json").read_text()) for d in (directory, again))
    stated = {key: value for key, value in given.items() if value is not None and key in written}
    assert stated == {key: written[key] for key in stated}
