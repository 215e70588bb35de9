"""`DiffusionModel`: a denoiser, what it is asked through, sampled by, and seen through."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jaxmodels.checks import number, shown
from jaxmodels.decoding.diffusion.caches.cache import NoCache, StepCache
from jaxmodels.decoding.diffusion.caches.exit_heads import EXITS, exits_spec
from jaxmodels.decoding.diffusion.driver import Asked, Denoise
from jaxmodels.decoding.diffusion.guidance import CFG, Guidance, TimeInterval
from jaxmodels.decoding.diffusion.noise import Noise, drawn
from jaxmodels.decoding.diffusion.samplers import Sampler
from jaxmodels.decoding.programs import bounded_jit
from jaxmodels.image_models.cache_names import CachedRun, named_cache
from jaxmodels.image_models.conditions import Conditions, Told, pixel_size
from jaxmodels.image_models.images import Images, Progress
from jaxmodels.image_models.sampler_names import named_sampler
from jaxmodels.layers.quantized.quantization import Quantization, dequantized_params, in_few_bits
from jaxmodels.layers.spec import Params, check_params
from jaxmodels.models.autoencoders.autoencoder import Autoencoder
from jaxmodels.models.denoisers.adapted import Adapted
from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.tpu_configs.mesh import each_in_use, in_use
from jaxmodels.tpu_configs.rules import DEFAULT_RULES, Rules
from jaxmodels.tpu_configs.shardings import Placement

NO_CACHE = NoCache()


@dataclass(frozen=True, kw_only=True)
class Habits:
    """What a pipeline does where nothing else is asked for, and in which units it speaks to its denoiser.

    Attributes:
        steps: of the sampler.
        guidance: the scale of guidance; 1 for none.
        tells_strength: whether that scale is told to the denoiser, which imitates guidance, instead of being
            applied to two predictions.
        time_scale: see `Adapted`.
        prediction_scale: see `Adapted`.
        guided_channels: how many of the first channels the scale guides; None for all of a canvas.
        guided_times: the scale guides where the time shown to the model lies between these two, see
            `TimeInterval`; None for everywhere.
    """

    steps: int = 50
    guidance: float = 1.0
    guided_channels: int | None = None
    guided_times: tuple[float, float] | None = None
    tells_strength: bool = False
    time_scale: float = 1.0
    prediction_scale: float = 1.0

    def rule(self, scale: float) -> Guidance | None:
        """How a scale guides two predictions; None where it does not."""
        if self.tells_strength or scale == 1.0:
            return None
        everywhere = CFG(scale, channels=self.guided_channels)
        return everywhere if self.guided_times is None else TimeInterval(everywhere, *self.guided_times)


@dataclass(frozen=True, kw_only=True)
class DiffusionModel:
    """An `ImageModel` that starts from noise and takes it away in steps.

    Attributes:
        pipeline: the class of its `model_index.json`.
        denoiser: predicts what a noisy canvas is made of.
        params: of the denoiser.
        autoencoder: from latents to pixels; None where the canvases are the images, from -1 to 1.
        autoencoder_params: of the autoencoder.
        conditions: makes the denoiser's condition of a class or a prompt.
        sampler: takes the steps where no other is asked for, and says what the denoiser predicts.
        habits: what else the pipeline does by itself.
        canvas: height and width of a canvas where no size is asked for.
        calibrations: what was measured or trained for caches of this model, by the names of those.
        exits: heads behind the denoiser's blocks, by which `DepthTable` and `UncertaintyExit` leave it early;
            empty for none. See `jaxmodels.image_models.calibrating.with_exits`.
        encoders: text encoders and tokenizers of the pipeline, by their folders; None for those left out.
        notes: further keys of the index, to be written back.
        mesh: the devices that the denoiser is spread over; None for one.

    Raises:
        ValueError: the autoencoder's latents are not what the denoiser works on.
    """

    pipeline: str
    denoiser: Denoiser
    params: Params = field(repr=False)
    autoencoder: Autoencoder | None = None
    autoencoder_params: Params = field(default_factory=dict, repr=False)
    conditions: Conditions
    sampler: Sampler
    habits: Habits = Habits()
    canvas: int
    calibrations: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    exits: Params = field(default_factory=dict, repr=False)
    encoders: Mapping[str, Any] = field(default_factory=dict, repr=False)
    notes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        if self.autoencoder is not None and self.autoencoder.latent_channels != self.channels:
            raise ValueError(
                f"the autoencoder's latents have {self.autoencoder.latent_channels} channels, and the "
                f"denoiser works on {self.channels}"
            )

    def on_mesh(self, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> "DiffusionModel":
        """This model with its denoiser spread over the devices of a mesh, each with its share of the heads
        and inner features.

        Raises:
            ValueError: the mesh does not divide the model, see `param_shardings`.
        """
        params = Placement(mesh=mesh, rules=rules).put(self.denoiser, self.params)
        return replace(self, params=params, mesh=mesh)

    def quantized(self, quantization: str | Quantization) -> "DiffusionModel":
        """This model with its weights in few bits, as `jaxmodels.load` with `quantize` reads one.

        Raises:
            ValueError: there is no quantisation of this name, or it cannot hold a weight, which is named.
        """
        return replace(self, params=in_few_bits(self.denoiser, self.params, quantization))

    def dequantized(self) -> "DiffusionModel":
        """This model with the arrays that its quantised weights stand for."""
        return replace(self, params=dequantized_params(self.params))

    @property
    def channels(self) -> int:
        """Of a canvas."""
        return self.denoiser.projections.in_channels

    @property
    def adapted(self) -> Denoiser:
        """The denoiser as samplers speak to it."""
        time, prediction = self.habits.time_scale, self.habits.prediction_scale
        if time == prediction == 1.0:
            return self.denoiser
        return Adapted(denoiser=self.denoiser, time_scale=time, prediction_scale=prediction)

    @property
    def _params_with_exits(self) -> Params:
        return self.params | {EXITS: self.exits} if self.exits else self.params

    @property
    def options(self) -> tuple[str, ...]:
        """Those of `ImageModel.options` that it has."""
        return ("cache", "guidance", "negative", "sampler")

    @property
    def factor(self) -> int:
        """Pixels for each place of a canvas, in both directions."""
        return 1 if self.autoencoder is None else self.autoencoder.factor

    @property
    def size(self) -> int:
        """Height and width in pixels of its images where no size is asked for."""
        return self.canvas * self.factor

    def generate(
        self,
        asked: Any,
        /,
        steps: int | None = None,
        *,
        negative: Any = None,
        size: int | tuple[int, int] | None = None,
        sampler: Sampler | str | None = None,
        guidance: float | Guidance | None = None,
        cache: StepCache | str = NO_CACHE,
        noise: Noise | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Images:
        """An image of each class or prompt, as one compiled program per number of images, of steps, size and
        kinds of rules.

        Args:
            asked: one or several classes or prompts, or a `Text`, whichever the model draws.
            steps: of the sampler; by default the pipeline's.
            negative: what guidance leads away from, of the kind of `asked`: one for all images, or one for
                each. By default no class, or the empty prompt.
            size: height and width in pixels, one number for both or a pair.
            sampler: takes the steps, or its name (`SAMPLERS`) for one on the noise schedule of the
                pipeline's, which is the default.
            guidance: a scale, 1 for none, or the rule itself; by default the pipeline's scale. A scale guides
                the channels and times of the pipeline (`habits`). A denoiser that was made to imitate
                guidance is told the scale.
            cache: what is kept of earlier calls of the denoiser, and which work that saves; or its name
                (`CACHES`), for the published options and the model's own calibration.
            noise: instead of that of `seed`, such as `Injected`.
            seed: of the random draws. Image b depends on the seed, b and what is asked for it, not on the
                other images.
            progress: called behind each call of the denoiser with the number of calls done, and of all. Each
                runs one program then.

        Raises:
            ValueError: a class, prompt or size that the model has no images of; a sampler that takes the
                predictions for something else; steps that the sampler or the cache is not made for; canvases
                that are no longer finite, naming the step.
        """
        began = time.perf_counter()
        policy, ready = self.prepared(
            asked,
            steps,
            negative=negative,
            size=size,
            sampler=sampler,
            guidance=guidance,
            cache=cache,
            noise=noise,
            seed=seed,
        )
        if progress is None:
            with in_use(self.mesh):
                run = policy.run(self.adapted, self._params_with_exits, ready)
            return self._images(run.latents, run.blocks, began)
        for part in self._parts(policy, ready):
            latents, blocks, of = part
            progress(len(blocks), of)
        return self._images(latents, blocks, began)

    def stream(
        self,
        asked: Any,
        /,
        steps: int | None = None,
        *,
        negative: Any = None,
        size: int | tuple[int, int] | None = None,
        sampler: Sampler | str | None = None,
        guidance: float | Guidance | None = None,
        cache: StepCache | str = NO_CACHE,
        noise: Noise | None = None,
        seed: int = 0,
    ) -> Iterator[Images]:
        """The images of `generate` before the first call of the denoiser, noise, and behind each; the last
        are those it gives. Each call runs one program, and its latents go through the autoencoder.

        Raises:
            ValueError: as `generate`.
        """
        began = time.perf_counter()
        policy, ready = self.prepared(
            asked,
            steps,
            negative=negative,
            size=size,
            sampler=sampler,
            guidance=guidance,
            cache=cache,
            noise=noise,
            seed=seed,
        )
        yield self._images(ready.noise.first(), np.zeros(0), began)
        for latents, blocks, _ in self._parts(policy, ready):
            yield self._images(latents, blocks, began)

    def prepared(
        self,
        asked: Any,
        /,
        steps: int | None = None,
        *,
        negative: Any = None,
        size: int | tuple[int, int] | None = None,
        sampler: Sampler | str | None = None,
        guidance: float | Guidance | None = None,
        cache: StepCache | str = NO_CACHE,
        noise: Noise | None = None,
        seed: int = 0,
    ) -> tuple[Denoise, Asked]:
        """How the run of `generate` goes, and what it is asked for: what `Denoise.run` takes beside the
        adapted denoiser and its parameters.

        Raises:
            ValueError: as `generate`.
        """
        multiple = self.factor * self.denoiser.projections.patch
        height, width = pixel_size(self.size if size is None else size, multiple)
        scale, rule = self._guidance(guidance)
        told = Told(height=height, width=width, strength=scale)
        condition = self.conditions.rows(asked, told)
        count = _rows_of(condition)
        away = None if rule is None else self._away(negative, condition, told)
        if rule is None and negative is not None:
            raise ValueError(
                f"negative={shown(negative)} is what guidance leads away from, and there is no guidance: "
                "give guidance=, a scale above 1"
            )
        canvas = (height // self.factor, width // self.factor, self.channels)
        source = drawn(seed, count, canvas) if noise is None else noise
        if tuple(source.shape) != (count, *canvas):
            raise ValueError(f"noise: expected {[count, *canvas]} for these images, got {list(source.shape)}")
        check_params(self.denoiser.spec(), self.params)
        if self.exits:
            check_params(exits_spec(self.denoiser), self.exits)
        policy = Denoise(
            sampler=self._sampler(sampler),
            steps=self.habits.steps if steps is None else steps,
            guidance=rule,
        )
        if isinstance(cache, str):
            cache = named_cache(cache, self._cached_run(policy, canvas))
        return replace(policy, cache=cache), Asked(source, condition, away)

    def pixels(self, latents: Float[Array, "B h w c"]) -> Float[np.ndarray, "B H W C"]:
        """The images of latents, from 0 to 1."""
        drawn = _pixels(self.autoencoder_params, jnp.asarray(latents), autoencoder=self.autoencoder)
        return np.asarray(drawn, np.float32)

    def _parts(self, policy: Denoise, ready: Asked) -> Iterator[tuple[jax.Array, np.ndarray, int]]:
        """Behind each call of the denoiser: latents, the blocks of the calls so far, the number of all."""
        of, blocks = len(policy.prepare(self.adapted, ready).calls.number), np.zeros(0)
        for part in each_in_use(self.mesh, policy.stream(self.adapted, self._params_with_exits, ready)):
            blocks = np.append(blocks, np.asarray(part.blocks))
            yield part.latents, blocks, of

    def _images(self, latents: jax.Array, blocks: jax.Array | np.ndarray, began: float) -> Images:
        return Images(
            pixels=self.pixels(latents),
            latents=np.asarray(latents, np.float32),
            calls=len(blocks),
            blocks=np.asarray(blocks, np.float32),
            seconds=time.perf_counter() - began,
        )

    def _cached_run(self, policy: Denoise, canvas: tuple[int, int, int]) -> CachedRun:
        height, width, _ = canvas
        tokens = height * width // self.denoiser.projections.patch**2
        return CachedRun(
            calls=policy.sampler.plan(policy.steps, tokens).calls,
            blocks=self.denoiser.num_blocks,
            calibrations=self.calibrations,
        )

    def _sampler(self, sampler: Sampler | str | None) -> Sampler:
        if isinstance(sampler, str):
            return named_sampler(sampler, self.sampler)
        wanted = self.sampler.prediction
        if sampler is not None and getattr(sampler, "prediction", wanted) != wanted:
            raise ValueError(
                f"the sampler takes predictions for {sampler.prediction.value!r}, and those of the model are "
                f"{wanted.value!r}"
            )
        return self.sampler if sampler is None else sampler

    def _guidance(self, guidance: float | Guidance | None) -> tuple[float, Guidance | None]:
        """The strength that the denoiser is told, and the rule for two predictions."""
        usual = self.habits.guidance
        if callable(guidance):
            return usual, guidance
        scale = usual if guidance is None else number("guidance", guidance)
        return scale, self.habits.rule(scale)

    def _away(self, negative: Any, condition: Any, told: Told) -> Any:
        """What guidance leads away from, for each row of the condition."""
        count = _rows_of(condition)
        if negative is None:
            return self.conditions.nothing(count, told)
        away = self.conditions.away(negative, told)
        if _rows_of(away) == 1:
            away = jax.tree.map(lambda leaf: jnp.repeat(leaf, count, axis=0), away)
        shapes = [[leaf.shape for leaf in jax.tree.leaves(one)] for one in (away, condition)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"negative must be one for all images or one for each, of the shapes of what is asked for, "
                f"{[list(shape) for shape in shapes[1]]}, got {[list(shape) for shape in shapes[0]]}"
            )
        return away


def _rows_of(condition: Any) -> int:
    return int(jax.tree.leaves(condition)[0].shape[0])


@bounded_jit(static_argnames=("autoencoder",))
def _pixels(params: Params, latents: Array, *, autoencoder: Autoencoder | None) -> Float[Array, "B H W C"]:
    seen = latents if autoencoder is None else autoencoder.pixels(params, latents)
    return jnp.clip(seen / 2 + 0.5, 0, 1)
