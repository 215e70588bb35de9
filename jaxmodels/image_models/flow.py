"""`FlowImageModel`: a normalising flow that draws images by running backwards."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxmodels.checks import number, shown, whole
from jaxmodels.decoding.arguments import MOST_SEEDS
from jaxmodels.decoding.finite import NotFinite
from jaxmodels.decoding.flows.drawing import FlowDrawing, begin, denoise, draw, run_back
from jaxmodels.decoding.flows.gs_jacobi import GSJacobi
from jaxmodels.decoding.flows.inversion import SEQUENTIAL, Inversion
from jaxmodels.decoding.flows.measures import measure_steps, planned
from jaxmodels.decoding.flows.reading import FlowGuidance
from jaxmodels.decoding.programs import bounded_jit
from jaxmodels.image_models.conditions import known_classes
from jaxmodels.image_models.images import Images, Progress
from jaxmodels.layers.quantized.quantization import Quantization, dequantized_params, in_few_bits
from jaxmodels.layers.spec import Params, check_params
from jaxmodels.models.flows.tarflow import TarFlow
from jaxmodels.tpu_configs.mesh import each_in_use, in_use
from jaxmodels.tpu_configs.rules import DEFAULT_RULES, Rules
from jaxmodels.tpu_configs.shardings import Placement

# The class that a `model_index.json` of these models names.
PIPELINE_NAME = "TarFlowPipeline"
# What runs a step backwards, by name.
SAMPLERS: Mapping[str, Inversion] = MappingProxyType({"sequential": SEQUENTIAL, "gs-jacobi": GSJacobi()})


@dataclass(frozen=True, kw_only=True)
class FlowImageModel:
    """A flow between images and noise: TarFlow. An `ImageModel`.

    Attributes:
        flow: the model.
        params: of the model.
        mesh: the devices that it is spread over; None for one.
    """

    flow: TarFlow
    params: Params = field(repr=False)
    mesh: Mesh | None = None

    @property
    def pipeline(self) -> str:
        """What it is written as."""
        return PIPELINE_NAME

    def on_mesh(self, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> "FlowImageModel":
        """This model spread over the devices of a mesh, each with its share of the heads and inner features.

        Raises:
            ValueError: the mesh does not divide the model, see `param_shardings`.
        """
        params = Placement(mesh=mesh, rules=rules).put(self.flow, self.params)
        return replace(self, params=params, mesh=mesh)

    def quantized(self, quantization: str | Quantization) -> "FlowImageModel":
        """This model with its weights in few bits, as `jaxmodels.load` with `quantize` reads one.

        Raises:
            ValueError: there is no quantisation of this name, or it cannot hold a weight, which is named.
        """
        return replace(self, params=in_few_bits(self.flow, self.params, quantization))

    def dequantized(self) -> "FlowImageModel":
        """This model with the arrays that its quantised weights stand for."""
        return replace(self, params=dequantized_params(self.params))

    @property
    def options(self) -> tuple[str, ...]:
        """See `ImageModel`."""
        return ("sampler", "guidance")

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
        sampler: Inversion | str = SEQUENTIAL,
        guidance: FlowGuidance | float | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Images:
        """An image of each class, as one compiled program per number of images and kind of sampler, and
        another that takes the noise of training away. `Images.calls` counts the passes through a step.

        Args:
            class_ids: one or several classes.
            steps: of the flow; a model has one number.
            size: height and width in pixels; a model has one.
            sampler: how a step is run backwards: "sequential", "gs-jacobi", or an `Inversion`.
            guidance: towards the class, or the scale of one that is the same for all tokens.
            seed: of the noise. With `Sequential`, image b depends on the seed, b and its class, not on the
                other images; passes of `GSJacobi` end for all images at once.
            progress: called behind each step; the steps are then a program each.

        Raises:
            ValueError: a class, size or number of steps that the model does not have, or a sampler that does
                not fit it.
            NotFinite: a step gave numbers that are not finite.
        """
        if progress is not None:
            watched = self.stream(class_ids, steps, size=size, sampler=sampler, guidance=guidance, seed=seed)
            last = next(watched)
            for done, images in enumerate(watched, start=1):
                progress(done, len(self.flow.steps))
                last = images
            return last
        began = time.perf_counter()
        classes, noise, rule = self._plan(class_ids, steps, size, sampler, guidance, seed)
        with in_use(self.mesh):
            behind, passes = draw(self.params, noise, classes, rule, config=self.flow)
            for done, x in enumerate(behind):
                self._check_finite(x, done)
            return self._images(self._finished(behind[-1], classes), int(passes.sum()), began)

    def stream(
        self,
        class_ids: int | Sequence[int] | ArrayLike,
        steps: int | None = None,
        *,
        size: int | None = None,
        sampler: Inversion | str = SEQUENTIAL,
        guidance: FlowGuidance | float | None = None,
        seed: int = 0,
    ) -> Iterator[Images]:
        """The images as they are before the first step is run backwards, and behind each, the last without
        the noise of training: those of `generate`.

        Raises:
            ValueError, NotFinite: as `generate`.
        """
        planned = self._plan(class_ids, steps, size, sampler, guidance, seed)
        yield from each_in_use(self.mesh, self._stream(*planned))

    def _stream(self, classes: Array, noise: Array, rule: FlowDrawing) -> Iterator[Images]:
        began, count, calls = time.perf_counter(), len(self.flow.steps), 0
        tokens = begin(self.params, noise)
        yield self._images(self.flow.images(tokens), 0, began)
        for done in range(count):
            number = count - 1 - done
            tokens, passes = run_back(self.params, tokens, classes, rule, config=self.flow, number=number)
            self._check_finite(tokens, done)
            calls += int(passes)
            images = self._finished(tokens, classes) if number == 0 else self.flow.images(tokens)
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
        classes = self._classes_of(images, class_ids)
        with in_use(self.mesh):
            found = _likelihood(self.params, jnp.asarray(images, jnp.float32), classes, config=self.flow)
        return np.asarray(found)

    def planned_passes(
        self,
        images: Float[np.ndarray, "B H W C"],
        class_ids: int | Sequence[int] | ArrayLike | None = None,
        *,
        segments: int,
        dominant: float = 0.3,
    ) -> GSJacobi:
        """A sampler for `generate` whose segments and first guesses are those that these images call for.

        Args:
            images: a few of those that the model was trained on, with pixels from -1 to 1.
            class_ids: of each image; None for no class.
            segments: in how many the tokens of hard steps are found; those of others are found at once.
            dominant: a step is hard that has more than this share of what all need, see `measure_steps`.

        Raises:
            ValueError: images of another size, a class that the model does not have, segments that do not
                divide the tokens, or a share that is none.
        """
        classes = self._classes_of(images, class_ids)
        told = None if classes is None else np.asarray(classes)
        with in_use(self.mesh):
            measures = measure_steps(self.flow, self.params, np.asarray(images, np.float32), told)
        share = number("dominant", dominant, low=0.0, high=1.0)
        found = planned(measures, whole("segments", segments, low=1), dominant=share)
        found.check(len(self.flow.steps), self.flow.places)
        return found

    def _classes_of(
        self, images: Float[np.ndarray, "B H W C"], class_ids: int | Sequence[int] | ArrayLike | None
    ) -> Int[Array, "B"] | None:
        """The classes of given images; raises ValueError where either is not what the model has."""
        if class_ids is None:
            return None
        classes = known_classes(class_ids, self.num_classes)
        if len(classes) != len(images):
            raise ValueError(f"class_ids must name a class for each image, {len(images)}, got {len(classes)}")
        return jnp.asarray(classes, jnp.int32)

    def _plan(
        self,
        class_ids: object,
        steps: int | None,
        size: int | None,
        sampler: Inversion | str,
        guidance: FlowGuidance | float | None,
        seed: int,
    ) -> tuple[Int[Array, "B"], Float[Array, "B S C"], FlowDrawing]:
        """The classes, the noise that images are made of, and how."""
        if size is not None and whole("size", size, low=1) != self.size:
            raise ValueError(f"size={size}: the model makes images of {self.size} x {self.size} pixels alone")
        count = len(self.flow.steps)
        if steps is not None and whole("steps", steps, low=1) != count:
            raise ValueError(f"steps={steps}: the model is a flow of {count} steps, and runs {count} alone")
        if isinstance(sampler, str):
            if sampler not in SAMPLERS:
                raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {shown(sampler)}")
            sampler = SAMPLERS[sampler]
        sampler.check(count, self.flow.places)
        if guidance is not None and not isinstance(guidance, FlowGuidance):
            guidance = FlowGuidance(scale=number("guidance", guidance, low=0.0))
        classes = known_classes(class_ids, self.num_classes)
        check_params(self.flow.spec(), self.params)
        key = jax.random.key(whole("seed", seed, high=MOST_SEEDS))
        shape = (self.flow.places, self.flow.channels)
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(len(classes)))
        noise = jax.vmap(lambda one: jax.random.normal(one, shape))(keys)
        return jnp.asarray(classes, jnp.int32), noise, FlowDrawing(inversion=sampler, guidance=guidance)

    def _finished(self, tokens: Array, classes: Array) -> Float[Array, "B H W C"]:
        """The images of tokens without the noise of training."""
        images = self.flow.images(tokens)
        return denoise(self.params, images, classes, config=self.flow) if self.flow.noise_std else images

    def _images(self, images: Array, calls: int, began: float) -> Images:
        pixels = np.clip(np.asarray(images, np.float32) / 2 + 0.5, 0, 1)
        return Images(pixels=pixels, calls=calls, seconds=time.perf_counter() - began)

    def _check_finite(self, tokens: Array, done: int) -> None:
        if not bool(jnp.isfinite(tokens).all()):
            number = len(self.flow.steps) - 1 - done
            raise NotFinite(
                f"step {number} of the flow, counted from 0 next to the images, gave numbers that are not "
                "finite when it was run backwards"
            )


@bounded_jit(static_argnames=("config",))
def _likelihood(
    params: Params, images: Array, classes: Array | None, *, config: TarFlow
) -> Float[Array, "B"]:
    numbers = config.places * config.channels
    nats = config.negative_log_likelihood(params, images, classes) + 0.5 * jnp.log(2 * jnp.pi)
    return -numbers * nats
