"""`NextScaleImageModel`: a model that draws codes scale by scale, and the autoencoder that they belong to."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxmodels.checks import whole
from jaxmodels.decoding.arguments import MOST_SEEDS
from jaxmodels.decoding.finite import NotFinite
from jaxmodels.decoding.next_scale import DRAW, NextScale, begin, draw, draw_scale, pixels
from jaxmodels.decoding.programs import bounded_jit
from jaxmodels.decoding.samplers import Sampler
from jaxmodels.image_models.conditions import known_classes
from jaxmodels.image_models.images import Images, Progress
from jaxmodels.layers.quantized.quantization import Quantization, dequantized_params, in_few_bits
from jaxmodels.layers.spec import Params, check_params
from jaxmodels.models.autoencoders.multi_scale import MultiScaleVQ
from jaxmodels.models.next_scale.var import VAR
from jaxmodels.tpu_configs.mesh import each_in_use, in_use
from jaxmodels.tpu_configs.rules import DEFAULT_RULES, Rules
from jaxmodels.tpu_configs.shardings import Placement

# The class that a `model_index.json` of these models names.
PIPELINE_NAME = "VARPipeline"
# What stands in pictures of which nothing is drawn yet: half way between black and white.
_GREY = 0.5


@dataclass(frozen=True, kw_only=True)
class NextScaleImageModel:
    """A class-conditional model of images as codes at several scales: VAR and M-VAR. An `ImageModel`.

    Attributes:
        model: draws the codes of each scale.
        params: of the model.
        autoencoder: makes pixels of codes, and codes of pixels.
        autoencoder_params: of the autoencoder.
        mesh: the devices that the model is spread over; None for one.

    Raises:
        ValueError: the two do not fit each other.
    """

    model: VAR
    params: Params = field(repr=False)
    autoencoder: MultiScaleVQ
    autoencoder_params: Params = field(repr=False)
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        pyramid = self.autoencoder.pyramid
        for name in ("sides", "num_codes", "code_width"):
            of_model, of_codes = getattr(self.model, name), getattr(pyramid, name)
            if of_model != of_codes:
                raise ValueError(f"{name} of the model is {of_model}, but of its autoencoder {of_codes}")

    @property
    def pipeline(self) -> str:
        """What it is written as."""
        return PIPELINE_NAME

    def on_mesh(self, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> "NextScaleImageModel":
        """This model spread over the devices of a mesh, each with its share of the heads and inner features.

        Raises:
            ValueError: the mesh does not divide the model, see `param_shardings`.
        """
        params = Placement(mesh=mesh, rules=rules).put(self.model, self.params)
        return replace(self, params=params, mesh=mesh)

    def quantized(self, quantization: str | Quantization) -> "NextScaleImageModel":
        """This model with its weights in few bits, as `jaxmodels.load` with `quantize` reads one.

        Raises:
            ValueError: there is no quantisation of this name, or it cannot hold a weight, which is named.
        """
        return replace(self, params=in_few_bits(self.model, self.params, quantization))

    def dequantized(self) -> "NextScaleImageModel":
        """This model with the arrays that its quantised weights stand for."""
        return replace(self, params=dequantized_params(self.params))

    @property
    def options(self) -> tuple[str, ...]:
        """See `ImageModel`."""
        return ("guidance",)

    @property
    def num_classes(self) -> int:
        """Classes are numbered from 0."""
        return self.model.num_classes

    @property
    def size(self) -> int:
        """Height and width of its images in pixels."""
        return self.autoencoder.size

    def generate(
        self,
        class_ids: int | Sequence[int] | ArrayLike,
        steps: int | None = None,
        *,
        size: int | None = None,
        sampler: Sampler = DRAW,
        guidance: float | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Images:
        """An image of each class, as one compiled program per number of images and kind of rule.

        Args:
            class_ids: one or several classes.
            steps: calls of the model, one for each scale; a model has one number.
            size: height and width in pixels; a model has one.
            sampler: draws each code.
            guidance: how far the last scale is pushed towards the class, see `NextScale`; None saves half of
                the work.
            seed: of the random draws. Image b depends on the seed, b and its class, not on the other images.
            progress: called behind each scale; the scales are then a program each.

        Raises:
            ValueError: a class, size or number of steps that the model does not have.
            NotFinite: the scores of a scale are NaN or infinite.
        """
        if progress is not None:
            watched = self.stream(class_ids, steps, size=size, sampler=sampler, guidance=guidance, seed=seed)
            last = next(watched)
            for images in watched:
                progress(images.calls, len(self.model.sides))
                last = images
            return last
        began = time.perf_counter()
        classes, keys = self._plan(class_ids, steps, size, seed)
        with in_use(self.mesh):
            codes, drawn, broken = draw(
                self.params,
                self.autoencoder_params,
                classes,
                keys,
                NextScale(sampler=sampler, guidance=guidance),
                model=self.model,
                autoencoder=self.autoencoder,
            )
        self._check_finite(broken)
        return self._images(drawn, codes, len(self.model.sides), began)

    def stream(
        self,
        class_ids: int | Sequence[int] | ArrayLike,
        steps: int | None = None,
        *,
        size: int | None = None,
        sampler: Sampler = DRAW,
        guidance: float | None = None,
        seed: int = 0,
    ) -> Iterator[Images]:
        """The images of `generate` before the first scale, which are grey, and behind each; the last are
        those it gives. Codes of scales that are not drawn yet are -1.

        Raises:
            ValueError, NotFinite: as `generate`.
        """
        classes, keys = self._plan(class_ids, steps, size, seed)
        rule = NextScale(sampler=sampler, guidance=guidance)
        yield from each_in_use(self.mesh, self._stream(classes, keys, rule))

    def _stream(self, classes: Array, keys: Array, rule: NextScale) -> Iterator[Images]:
        began = time.perf_counter()
        parts = {"model": self.model, "autoencoder": self.autoencoder}
        drawing = begin(self.params, classes, keys, rule, **parts)
        codes = np.full((len(classes), sum(self.model.sizes)), -1, np.int32)
        shape = (len(classes), self.size, self.size, self.autoencoder.image_channels)
        yield self._images(np.full(shape, _GREY), codes.copy(), 0, began)
        for scale, count in enumerate(self.model.sizes):
            drawing, drawn = draw_scale(
                self.params, self.autoencoder_params, drawing, rule, **parts, scale=scale
            )
            self._check_finite(drawing.broken)
            first = sum(self.model.sizes[:scale])
            codes[:, first : first + count] = drawn
            made = pixels(self.autoencoder_params, drawing.latents, autoencoder=self.autoencoder)
            yield self._images(made, codes.copy(), scale + 1, began)

    def pixels(self, codes: Int[np.ndarray, "B L"]) -> Float[np.ndarray, "B H W C"]:
        """The images of the codes of all scales, from 0 to 1."""
        drawn = _pixels(self.autoencoder_params, codes, autoencoder=self.autoencoder)
        return np.asarray(drawn, np.float32)

    def codes(self, images: Float[np.ndarray, "B H W C"]) -> Int[np.ndarray, "B L"]:
        """The codes of all scales of images from 0 to 1."""
        return np.asarray(_codes(self.autoencoder_params, images, autoencoder=self.autoencoder))

    def _plan(
        self, class_ids: object, steps: int | None, size: int | None, seed: int
    ) -> tuple[Int[Array, "B"], Array]:
        """The classes and a key for each."""
        if size is not None and whole("size", size, low=1) != self.size:
            raise ValueError(f"size={size}: the model makes images of {self.size} x {self.size} pixels alone")
        scales = len(self.model.sides)
        if steps is not None and whole("steps", steps, low=1) != scales:
            raise ValueError(f"steps={steps}: the model draws its {scales} scales in {scales} steps alone")
        classes = known_classes(class_ids, self.num_classes)
        check_params(self.model.spec(), self.params)
        check_params(self.autoencoder.spec(), self.autoencoder_params)
        key = jax.random.key(whole("seed", seed, high=MOST_SEEDS))
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(len(classes)))
        return jnp.asarray(classes, jnp.int32), keys

    def _check_finite(self, broken: Int[Array, ""]) -> None:
        """Raises NotFinite where there is a first scale whose scores were not."""
        if (scale := int(broken)) >= 0:
            raise NotFinite(
                f"scores of codes are not finite at scale {scale + 1} of {len(self.model.sides)}: look for "
                "parameters that are not"
            )

    def _images(self, drawn: ArrayLike, codes: ArrayLike, calls: int, began: float) -> Images:
        return Images(
            pixels=np.asarray(drawn, np.float32),
            codes=np.asarray(codes),
            calls=calls,
            seconds=time.perf_counter() - began,
        )


@bounded_jit(static_argnames=("autoencoder",))
def _pixels(params: Params, codes: Array, *, autoencoder: MultiScaleVQ) -> Float[Array, "B H W C"]:
    return pixels(params, autoencoder.pyramid.latents(params, codes), autoencoder=autoencoder)


@bounded_jit(static_argnames=("autoencoder",))
def _codes(params: Params, images: Array, *, autoencoder: MultiScaleVQ) -> Int[Array, "B L"]:
    return autoencoder.codes(params, jnp.asarray(images) * 2 - 1)
