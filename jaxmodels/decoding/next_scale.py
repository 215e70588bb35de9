"""`NextScale`: images drawn scale by scale, all codes of a scale in one call of the model."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from jaxmodels.checks import is_traced, number
from jaxmodels.decoding.programs import bounded_jit
from jaxmodels.decoding.samplers import Sample, Sampler
from jaxmodels.layers.spec import Params
from jaxmodels.models.autoencoders.multi_scale import MultiScaleVQ
from jaxmodels.models.next_scale.var import VAR
from jaxmodels.pytrees import register_dataclass

# Codes are drawn with their probabilities where nothing else is asked for.
DRAW = Sample()


@dataclass(frozen=True, kw_only=True)
class NextScale:
    """How the codes of a scale are drawn from their scores.

    At scale i of k the scores are ``(1 + t) with class - t without``, ``t = guidance * i / (k - 1)``, so that
    the first is not guided at all. Source: Tian et al. 2024 (VAR, https://arxiv.org/abs/2404.02905),
    ``autoregressive_infer_cfg``; its evaluation samples with top_k=900 of 4096 codes, top_p=0.96 and a
    guidance of 1.5.

    Attributes:
        sampler: draws each code.
        guidance: how far scores are pushed away from those without a class at the last scale; None: not at
            all, which saves half of the work.

    Raises:
        ValueError: a negative guidance.
    """

    sampler: Sampler = DRAW
    guidance: float | None = None

    def __post_init__(self) -> None:
        if self.guidance is not None and not is_traced(self.guidance):
            object.__setattr__(self, "guidance", number("guidance", self.guidance, low=0.0))


@struct.dataclass
class Drawing:
    """Images of which some scales are drawn.

    Attributes:
        cache: what the model keeps of those scales, with guidance also of images without a class.
        latents: f32[B, P, P, C], what their codes add up to.
        condition: what the model goes by, a row for each of the cache's.
        keys: of each image.
        broken: i32[], the first scale whose scores were not finite; -1 for none.
    """

    cache: Any
    latents: jax.Array
    condition: jax.Array
    keys: jax.Array
    broken: jax.Array


@bounded_jit(static_argnames=("model", "autoencoder"))
def draw(
    params: Params,
    autoencoder_params: Params,
    classes: Int[Array, "B"],
    keys: Array,
    rule: NextScale,
    *,
    model: VAR,
    autoencoder: MultiScaleVQ,
) -> tuple[Int[Array, "B L"], Float[Array, "B H W C"], Int[Array, ""]]:
    """The codes of all scales of an image of each class, its pixels from 0 to 1, and the first scale whose
    scores were not finite, -1 for none, as one program."""
    drawing, codes = begin(params, classes, keys, rule, model=model, autoencoder=autoencoder), []
    for scale in range(len(model.sides)):
        drawing, drawn = draw_scale(
            params, autoencoder_params, drawing, rule, model=model, autoencoder=autoencoder, scale=scale
        )
        codes.append(drawn)
    drawn = pixels(autoencoder_params, drawing.latents, autoencoder=autoencoder)
    return jnp.concatenate(codes, axis=1), drawn, drawing.broken


@bounded_jit(static_argnames=("model", "autoencoder"))
def begin(
    params: Params,
    classes: Int[Array, "B"],
    keys: Array,
    rule: NextScale,
    *,
    model: VAR,
    autoencoder: MultiScaleVQ,
) -> Drawing:
    """Images of which nothing is drawn."""
    batch = classes.shape[0]
    if rule.guidance is not None:
        classes = jnp.concatenate([classes, jnp.full_like(classes, model.num_classes)])
    condition = model.condition(params, classes)
    return Drawing(
        cache=model.init_cache(classes.shape[0], condition.dtype),
        latents=autoencoder.pyramid.empty(batch),
        condition=condition,
        keys=keys,
        broken=jnp.int32(-1),
    )


@bounded_jit(static_argnames=("model", "autoencoder", "scale"), donate_argnames=("drawing",))
def draw_scale(
    params: Params,
    autoencoder_params: Params,
    drawing: Drawing,
    rule: NextScale,
    *,
    model: VAR,
    autoencoder: MultiScaleVQ,
    scale: int,
) -> tuple[Drawing, Int[Array, "B N"]]:
    """The images with one scale more, and its codes."""
    pyramid, batch = autoencoder.pyramid, drawing.latents.shape[0]
    x = model.begin(params, drawing.condition)
    if scale:
        shown = model.embed(params, pyramid.shown(drawing.latents, scale), scale)
        copies = drawing.condition.shape[0] // batch
        x = jnp.tile(shown, (copies, 1, 1))
    logits, pending = model.peek(params, x, drawing.cache, drawing.condition)
    if rule.guidance is not None:
        t = rule.guidance * scale / (len(model.sides) - 1)
        logits = (1 + t) * logits[:batch] - t * logits[batch:]
    keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, scale), logits.shape[1]))(
        drawing.keys
    )
    codes = rule.sampler(logits.reshape(-1, logits.shape[-1]), keys.reshape(-1)).reshape(batch, -1)
    latents = pyramid.add(autoencoder_params, drawing.latents, scale, codes)
    is_first = (drawing.broken < 0) & ~jnp.isfinite(logits).all()
    broken = jnp.where(is_first, scale, drawing.broken)
    return replace(drawing, cache=model.commit(pending), latents=latents, broken=broken), codes


@bounded_jit(static_argnames=("autoencoder",))
def pixels(
    params: Params, latents: Float[Array, "B P P C"], *, autoencoder: MultiScaleVQ
) -> Float[Array, "B H W C"]:
    """The images of latents, from 0 to 1."""
    return jnp.clip(autoencoder.decode(params, latents).astype(jnp.float32) / 2 + 0.5, 0, 1)


register_dataclass(NextScale, ["sampler", "guidance"], [])
