"""Digits by a diffusion model, with caches and without, and one on its way out of the noise."""

import numpy as np

import jaxmodels as jm

STEPS = 12
SHADES = " .:-=+*#%@"


def drawn(image: np.ndarray) -> list[str]:
    """Lines of characters, one for every two rows of pixels of [H, W, 1]."""
    coarse = image[::2, :, 0]
    return ["".join(SHADES[int(value * (len(SHADES) - 1))] for value in row) for row in coarse]


def main() -> None:
    model = jm.load("tiny-dit")
    plain = model.generate(range(10), STEPS, sampler="dpm++", seed=1)
    print(f"{plain.calls} calls of the denoiser, {int(plain.blocks.sum())} blocks")
    for cache in ("fora", "taylorseer"):
        made = model.generate(range(10), STEPS, sampler="dpm++", cache=cache, seed=1)
        error = np.abs(made.pixels - plain.pixels).mean()
        print(f"with {cache}: {int(made.blocks.sum())} blocks, pixels {error:.3f} away on average")
    stages = list(model.stream(3, STEPS, sampler="dpm++", seed=1))
    for line in zip(*(drawn(stage.pixels[0]) for stage in stages[:: len(stages) // 3]), strict=True):
        print("   ".join(line))


if __name__ == "__main__":
    main()
