"""`FlowImageModel`: a normalising flow that draws images by running backwards."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxmodels.checks import whole
from jaxmodels.decoding.flows.drawing import FlowDrawing, denoise, draw
from jaxmodels.decoding.programs import bounded_jit
from jaxmodels.image_models.conditions import known_classes
from jaxmodels.image_models.images import Images
from jaxmodels.layers.spec import Params, check_params
from jaxmodels.models.flows.tarflow import TarFlow

# The class that a `model_index.json` of these models names.
PIPELINE_NAME = "TarFlowPipeline"
PLAIN = FlowDrawing()


@dataclass(frozen=True, kw_only=True)
class FlowImageModel:
    """A flow between images and noise: TarFlow. An `ImageModel`.

    Attributes:
        flow: the model.
        params: of the model.
    """

    flow: TarFlow
    params: Params = field(repr=False)

    @property
    def pipeline(self) -> str:
        """What it is written as."""
        return PIPELINE_NAME

    @property
    def num_classes(self) -> int:
        """Classes are numbered from 0; a model without classes draws class 0 alone."""
        return max(self.flow.num_classes, 1)

    @property
    def size(self) -> int:
        """Height and width of its images in pixels."""
        return self.flow.size

    def generate(
        self,
        class_ids: int | Sequence[int] | ArrayLike,
        steps: int | None = None,
        *,
        size: int | None = None,
        rule: FlowDrawing = PLAIN,
        seed: int = 0,
    ) -> Images:
        """An image of each class, as one compiled program per number of images and kind of rule, and another
        that takes the noise of training away. `Images.calls` counts passes through all steps.

        Args:
            class_ids: one or several classes.
            steps: of the flow; a model has one number.
            size: height and width in pixels; a model has one.
            rule: how the steps are run backwards.
            seed: of the noise. With `Sequential`, image b depends on the seed, b and its class, not on the
                other images; passes of `GSJacobi` end for all images at once.

        Raises:
            ValueError: a class, size or number of steps that the model does not have, or a rule that does not
                fit it.
            FloatingPointError: a step gave numbers that are not finite.
        """
        *_, last = self.stream(class_ids, steps, size=size, rule=rule, seed=seed)
        return last

    def stream(
        self,
        class_ids: int | Sequence[int] | ArrayLike,
        steps: int | None = None,
        *,
        size: int | None = None,
        rule: FlowDrawing = PLAIN,
        seed: int = 0,
    ) -> Iterator[Images]:
        """The images as they are in front of the first step that is run backwards, behind each, and without
        the noise of training; the last are those of `generate`.

        Raises:
            ValueError, FloatingPointError: as `generate`.
        """
        began = time.perf_counter()
        classes, noise = self._plan(class_ids, steps, size, seed)
        behind, passes = draw(self.params, noise, classes, rule, config=self.flow)
        _check_finite(behind)
        yield self._images(self.flow.images(noise), 0, began)
        for done, tokens in enumerate(behind):
            images, calls = self.flow.images(tokens), int(passes[: done + 1].sum())
            yield self._images(images, calls, began)
        if self.flow.noise_std:
            images = denoise(self.params, images, classes, config=self.flow)
            yield self._images(images, calls, began)

    def likelihood(
        self, images: Float[np.ndarray, "B H W C"], class_ids: int | Sequence[int] | ArrayLike | None = None
    ) -> Float[np.ndarray, "B"]:
        """The logarithm of the density of images with pixels from -1 to 1, in nats.

        Args:
            class_ids: of each image; None for no class.

        Raises:
            ValueError: images of another size, or a class that the model does not have.
        """
        classes = None
        if class_ids is not None:
            classes = jnp.asarray(known_classes(class_ids, self.num_classes), jnp.int32)
        found = _likelihood(self.params, jnp.asarray(images, jnp.float32), classes, config=self.flow)
        return np.asarray(found)

    def _plan(
        self, class_ids: object, steps: int | None, size: int | None, seed: int
    ) -> tuple[Int[Array, "B"], Float[Array, "B S C"]]:
        """The classes, and the noise that images are made of."""
        if size is not None and whole("size", size, low=1) != self.size:
            raise ValueError(f"size={size}: the model makes images of {self.size} x {self.size} pixels alone")
        count = len(self.flow.steps)
        if steps is not None and whole("steps", steps, low=1) != count:
            raise ValueError(f"steps={steps}: the model is a flow of {count} steps, and runs {count} alone")
        classes = known_classes(class_ids, self.num_classes)
        check_params(self.flow.spec(), self.params)
        key = jax.random.key(whole("seed", seed, high=2**63 - 1))
        shape = (self.flow.places, self.flow.channels)
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(len(classes)))
        noise = jax.vmap(lambda one: jax.random.normal(one, shape))(keys)
        return jnp.asarray(classes, jnp.int32), noise

    def _images(self, images: Array, calls: int, began: float) -> Images:
        pixels = np.clip(np.asarray(images, np.float32) / 2 + 0.5, 0, 1)
        return Images(pixels=pixels, calls=calls, seconds=time.perf_counter() - began)


def _check_finite(behind: Float[Array, "K B S C"]) -> None:
    finite = np.asarray(jnp.isfinite(behind).all(axis=(1, 2, 3)))
    if not finite.all():
        first = len(finite) - 1 - int(np.argmin(finite))
        raise FloatingPointError(
            f"step {first} of the flow, counted from 0 next to the images, gave numbers that are not finite "
            "when it was run backwards"
        )


@bounded_jit(static_argnames=("config",))
def _likelihood(
    params: Params, images: Array, classes: Array | None, *, config: TarFlow
) -> Float[Array, "B"]:
    numbers = config.places * config.channels
    nats = config.negative_log_likelihood(params, images, classes) + 0.5 * jnp.log(2 * jnp.pi)
    return -numbers * nats
