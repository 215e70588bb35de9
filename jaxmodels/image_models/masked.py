"""`MaskedImageModel`: a model that fills in codes, and the autoencoder that they belong to."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxmodels.checks import whole
from jaxmodels.decoding.arguments import MOST_SEEDS
from jaxmodels.decoding.finite import NotFinite
from jaxmodels.decoding.generation import NoTokenError, Plan, run
from jaxmodels.decoding.masked.blocks.fixed import FixedBlocks
from jaxmodels.decoding.masked.caches.kept import CanvasCache
from jaxmodels.decoding.masked.caches.recompute import Recompute
from jaxmodels.decoding.masked.driver import MaskedDiffusion
from jaxmodels.decoding.masked.images import plan_images, watch
from jaxmodels.decoding.masked.seen import Guidance, Unmask
from jaxmodels.decoding.masked.unmask.maskgit import MaskGIT
from jaxmodels.decoding.processors import Suppress
from jaxmodels.decoding.programs import bounded_jit
from jaxmodels.decoding.samplers import Sample, Sampler
from jaxmodels.image_models.conditions import known_classes
from jaxmodels.image_models.images import Images, Progress
from jaxmodels.layers.quantized.quantization import Quantization
from jaxmodels.layers.spec import Params, check_params
from jaxmodels.model import Model
from jaxmodels.models.autoencoders.vq import VQModel
from jaxmodels.tpu_configs.mesh import each_in_use, in_use
from jaxmodels.tpu_configs.rules import DEFAULT_RULES, Rules

# How places are chosen and codes proposed where nothing else is asked for.
UNMASK, DRAW = MaskGIT(), Sample()
# The class that a `model_index.json` of these models names.
PIPELINE_NAME = "MaskGITPipeline"
# What stands in pictures where no code is known yet: half way between black and white.
_GREY = 0.5


@dataclass(frozen=True, kw_only=True)
class MaskedImageModel:
    """A class-conditional model of images as codes, which it fills in: MaskGIT. An `ImageModel`.

    Attributes:
        model: fills in codes behind a token for the class. Its vocabulary holds the codes, then the classes,
            then the mask token.
        autoencoder: makes pixels of codes, and codes of pixels.
        autoencoder_params: of the autoencoder.

    Raises:
        ValueError: the two do not fit each other.
    """

    model: Model
    autoencoder: VQModel
    autoencoder_params: Params = field(repr=False)

    def __post_init__(self) -> None:
        config, codes = self.model.decoder, self.autoencoder.num_codes
        mask_token = None if config.filling is None else config.filling.mask_token
        if mask_token is None or mask_token != config.vocab_size - 1 or config.vocab_size < codes + 2:
            raise ValueError(
                f"the model's vocabulary must hold the {codes} codes of the autoencoder, at least one class "
                f"and the mask token last, got {config.vocab_size} tokens and the mask token {mask_token}"
            )
        places = (config.learned_positions or 0) - 1
        if places < 1 or math.isqrt(places) ** 2 != places:
            raise ValueError(
                f"the model must have a position for the class and one for each place of a square, got "
                f"{config.learned_positions}"
            )

    @property
    def pipeline(self) -> str:
        """What it is written as."""
        return PIPELINE_NAME

    @property
    def mesh(self) -> Mesh | None:
        """The devices that the model is spread over; None for one."""
        return self.model.mesh

    def on_mesh(self, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> "MaskedImageModel":
        """This model spread over the devices of a mesh, see `Model.on_mesh`.

        Raises:
            ValueError: the mesh does not divide the model.
        """
        return replace(self, model=self.model.on_mesh(mesh, rules))

    def quantized(self, quantization: str | Quantization) -> "MaskedImageModel":
        """This model with its weights in few bits, see `Model.quantized`.

        Raises:
            ValueError: there is no quantisation of this name, or it cannot hold a weight, which is named.
        """
        return replace(self, model=self.model.quantized(quantization))

    def dequantized(self) -> "MaskedImageModel":
        """This model with the arrays that its quantised weights stand for."""
        return replace(self, model=self.model.dequantized())

    @property
    def options(self) -> tuple[str, ...]:
        """None: its rules have options of their own."""
        return ()

    @property
    def num_classes(self) -> int:
        """Classes are numbered from 0."""
        return self.model.decoder.vocab_size - self.autoencoder.num_codes - 1

    @property
    def grid(self) -> int:
        """Codes in each row and column of an image."""
        return math.isqrt((self.model.decoder.learned_positions or 0) - 1)

    @property
    def size(self) -> int:
        """Height and width of its images in pixels."""
        return self.grid * self.autoencoder.shape.factor

    def generate(
        self,
        class_ids: int | Sequence[int] | ArrayLike,
        steps: int = 8,
        *,
        size: int | None = None,
        unmask: Unmask = UNMASK,
        cache: CanvasCache = Recompute(),
        sampler: Sampler = DRAW,
        guidance: Guidance | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Images:
        """An image of each class, as one compiled program per number of images and kinds of rules.

        Args:
            class_ids: one or several classes.
            steps: calls of the model, at most one for each code.
            size: height and width in pixels; a model has one.
            unmask: which places a step fills in.
            cache: what is kept of the canvas between steps.
            sampler: how a code is proposed for a place.
            guidance: towards the class; the model must have been trained without it as well.
            seed: of the random draws. Image b depends on the seed, b and its class, not on the other images.
            progress: called behind each step; the steps are then a program each.

        Raises:
            ValueError: a class or a size that the model does not have, or steps beyond the number of codes.
            NotFinite: the scores of codes are NaN or infinite.
        """
        began = time.perf_counter()
        ready = self._plan(class_ids, size, seed)
        strategy = self._strategy(steps, unmask, cache, sampler, guidance)
        if progress is None:
            try:
                with in_use(self.mesh):
                    found = run(self.model.config, self.model.params, strategy, ready)
            except NoTokenError as error:
                raise NotFinite("scores of codes are not finite: look for parameters that are not") from error
            codes, calls = found.tokens.reshape(-1, self.grid, self.grid), found.steps
        else:
            for calls, (tokens, _) in enumerate(self._watch(strategy, ready)):
                codes = tokens
                if calls:
                    progress(calls, steps)
        pixels = self.pixels(codes)
        return Images(pixels=pixels, codes=codes, calls=calls, seconds=time.perf_counter() - began)

    def stream(
        self,
        class_ids: int | Sequence[int] | ArrayLike,
        steps: int = 8,
        *,
        size: int | None = None,
        unmask: Unmask = UNMASK,
        cache: CanvasCache = Recompute(),
        sampler: Sampler = DRAW,
        guidance: Guidance | None = None,
        seed: int = 0,
    ) -> Iterator[Images]:
        """The images of `generate` before the first step and behind each; the last are those it gives.

        Raises:
            ValueError, NotFinite: as `generate`.
        """
        began, factor = time.perf_counter(), self.autoencoder.shape.factor
        ready = self._plan(class_ids, size, seed)
        strategy = self._strategy(steps, unmask, cache, sampler, guidance)
        for calls, (codes, hidden) in enumerate(self._watch(strategy, ready)):
            pixels = self.pixels(np.where(hidden, 0, codes))
            covered = hidden.repeat(factor, 1).repeat(factor, 2)
            yield Images(
                pixels=np.where(covered[..., None], _GREY, pixels),
                codes=np.where(hidden, -1, codes),
                calls=calls,
                seconds=time.perf_counter() - began,
            )

    def pixels(self, codes: Int[np.ndarray, "B P Q"]) -> Float[np.ndarray, "B H W C"]:
        """The images of grids of codes, from 0 to 1."""
        drawn = _pixels(self.autoencoder_params, codes, autoencoder=self.autoencoder)
        return np.asarray(drawn, np.float32)

    def codes(self, pixels: Float[np.ndarray, "B H W C"]) -> Int[np.ndarray, "B P Q"]:
        """The codes of images from 0 to 1."""
        return np.asarray(_codes(self.autoencoder_params, pixels, autoencoder=self.autoencoder))

    def _watch(self, strategy: MaskedDiffusion, ready: Plan) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Before the first step and behind each: the codes [B, h, w], and which are unknown."""
        canvases = watch(self.model.config, self.model.params, strategy, ready)
        for canvas in each_in_use(self.mesh, canvases):
            codes, hidden = (part[:, 1:].reshape(-1, self.grid, self.grid) for part in canvas)
            yield codes, hidden

    def _plan(self, class_ids: object, size: int | None, seed: int) -> Plan:
        """Images of these classes made ready: the token of its class stands in front of each."""
        if size is not None and whole("size", size, low=1) != self.size:
            raise ValueError(f"size={size}: the model makes images of {self.size} x {self.size} pixels alone")
        classes = known_classes(class_ids, self.num_classes)
        check_params(self.model.config.spec(), self.model.params)
        given, seed = classes[:, None] + self.autoencoder.num_codes, whole("seed", seed, high=MOST_SEEDS)
        return plan_images(
            self.model.config, self.model.params, given, self.grid**2, seed, self.model.placement
        )

    def _strategy(
        self,
        steps: int,
        unmask: Unmask,
        cache: CanvasCache,
        sampler: Sampler,
        guidance: Guidance | None,
    ) -> MaskedDiffusion:
        codes, vocab = self.autoencoder.num_codes, self.model.config.vocab_size
        strategy = MaskedDiffusion(
            blocks=FixedBlocks(self.grid**2),
            steps=steps,
            unmask=unmask,
            cache=cache,
            sampler=sampler,
            guidance=guidance,
            processors=(Suppress(tuple(range(codes, vocab))),),
        )
        strategy.check_model(self.model.config, self.grid**2)
        return strategy


@bounded_jit(static_argnames=("autoencoder",))
def _pixels(params: Params, codes: Array, *, autoencoder: VQModel) -> Float[Array, "B H W C"]:
    return jnp.clip(autoencoder.pixels(params, codes) / 2 + 0.5, 0, 1)


@bounded_jit(static_argnames=("autoencoder",))
def _codes(params: Params, pixels: Array, *, autoencoder: VQModel) -> Int[Array, "B P Q"]:
    return autoencoder.codes(params, jnp.asarray(pixels) * 2 - 1)
