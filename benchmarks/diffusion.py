"""A whole run of a diffusion transformer beside `diffusers`, PyTorch, on the same weights.

    python -m benchmarks.diffusion

The shape is DiT-S/2: 12 layers of 6 heads x 64, latents of 32 x 32 x 4, 20 steps of DDIM under guidance
without classifier, float32. `diffusers` computes as its DiT pipeline does: both conditions as one batch, the
scheduler's step between two calls of the model. Both start from the same noise, must agree on the latents,
and are measured in turns.
"""

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel

from benchmarks.common import Result, Table, Target, argument_parser, in_turns, publish, seconds
from jaxmodels.checkpoints.diffusers import load_denoiser
from jaxmodels.decoding.diffusion import Asked, Denoise, Injected
from jaxmodels.decoding.diffusion.guidance import CFG
from jaxmodels.decoding.diffusion.samplers import DDIM
from jaxmodels.layers.spec import Params
from jaxmodels.models.denoisers.denoiser import Denoiser

SHAPE = {
    "num_attention_heads": 6,
    "attention_head_dim": 64,
    "num_layers": 12,
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 8,
    "num_embeds_ada_norm": 1000,
}
TINY = SHAPE | {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8}
SCALE = 4.0
AIM = 1.5
# The largest difference between latents, over the largest latent, that is still rounding.
AGREE = 1e-3


@dataclass(frozen=True)
class Task:
    """What both contestants compute: images of these classes, from this noise, [B, H, W, C]."""

    steps: int
    noise: np.ndarray
    classes: np.ndarray


def write_model(values: dict[str, Any], directory: str) -> DiTTransformer2DModel:
    """A model of `diffusers` with random weights, gates open, saved to the directory. It predicts little
    noise, so that rounding does not grow from step to step."""
    torch.manual_seed(0)
    model = DiTTransformer2DModel(**values).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            width = parameter.shape[-1] if parameter.ndim > 1 else 100
            parameter.copy_(torch.randn_like(parameter) / width**0.5)
        model.proj_out_2.weight.mul_(0.02)
    model.save_pretrained(directory)
    return model


def by_diffusers(model: DiTTransformer2DModel, task: Task) -> np.ndarray:
    """The latents of their loop."""
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(task.steps)
    none, channels = np.full_like(task.classes, model.config.num_embeds_ada_norm), task.noise.shape[-1]
    labels = torch.tensor(np.concatenate([task.classes, none]))
    x = torch.tensor(task.noise).movedim(-1, 1).contiguous()
    with torch.inference_mode():
        for t in scheduler.timesteps:
            output = model(torch.cat([x, x]), timestep=t.expand(len(labels)), class_labels=labels).sample
            conditional, unconditional = output[:, :channels].chunk(2)
            x = scheduler.step(unconditional + SCALE * (conditional - unconditional), t, x).prev_sample
    return x.movedim(1, -1).numpy()


def by_jaxmodels(config: Denoiser, params: Params, task: Task) -> np.ndarray:
    """The latents of our program."""
    none = np.full_like(task.classes, SHAPE["num_embeds_ada_norm"])
    asked = Asked(Injected(jnp.asarray(task.noise)), jnp.asarray(task.classes), jnp.asarray(none))
    policy = Denoise(sampler=DDIM(), steps=task.steps, guidance=CFG(SCALE))
    return np.asarray(policy.run(config, params, asked).latents)


def contestants(values: dict[str, Any]) -> dict[str, Callable[[Task], np.ndarray]]:
    """Both, with the same weights."""
    with tempfile.TemporaryDirectory() as directory:
        model = write_model(values, directory)
        config, params = load_denoiser(directory)
        params = jax.tree.map(jnp.array, params)
    return {
        "jaxmodels": functools.partial(by_jaxmodels, config, params),
        "diffusers, PyTorch": functools.partial(by_diffusers, model),
    }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2], help="images at a time")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="turns of every measurement")
    arguments = parser.parse_args()
    values = TINY if arguments.quick else SHAPE
    if arguments.quick:
        arguments.batches, arguments.steps, arguments.rounds = [1], 3, 1
    both, rows, targets, found = contestants(values), [], [], {}
    for batch in arguments.batches:
        rng, size = np.random.default_rng(batch), values["sample_size"]
        noise = rng.standard_normal((batch, size, size, values["in_channels"])).astype(np.float32)
        task = Task(arguments.steps, noise, rng.integers(1000, size=batch))
        ours, theirs = (run(task) for run in both.values())
        difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        if difference > AGREE:
            raise SystemExit(f"latents differ by {difference:.2g} of the largest: not the same computation")
        clocks = {
            name: functools.partial(seconds, functools.partial(run, task)) for name, run in both.items()
        }
        timings = in_turns(clocks, arguments.rounds)
        ours_s, theirs_s = (timings[name].median for name in both)
        ratio = theirs_s / ours_s
        rows.append([batch, ours_s, theirs_s, ratio, difference])
        found[str(batch)] = {"jaxmodels_s": ours_s, "diffusers_s": theirs_s, "difference": difference}
        targets.append(
            Target(what=f"batch {batch}: times diffusers", measured=ratio, sense="at least", aim=AIM)
        )
    publish(
        Result(
            name="diffusion",
            title="A run of DiT-S/2",
            method=(
                "12 layers of 6 heads x 64, random weights, latents of 32 x 32 x 4, "
                f"{arguments.steps} steps of DDIM, guidance {SCALE:g}, float32. `diffusers` computes what "
                "its DiT pipeline does, in the same process, on the same weights and noise."
            ),
            values=found,
            tables=[
                Table(
                    caption="Medians of the turns",
                    columns=["images", "jaxmodels (s)", "diffusers (s)", "× our time", "largest difference"],
                    rows=rows,
                )
            ],
            targets=targets,
        ),
        arguments,
    )


if __name__ == "__main__":
    main()
