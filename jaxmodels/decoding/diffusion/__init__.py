"""Diffusion: loops that turn noise into latents, made of samplers, guidance and caches."""

from jaxmodels.decoding.diffusion.driver import Asked, Denoise, Run
from jaxmodels.decoding.diffusion.noise import Drawn, Injected, Noise, drawn
from jaxmodels.decoding.diffusion.stream import StreamDiffusion
from jaxmodels.decoding.finite import NotFinite

__all__ = ["Asked", "Denoise", "Drawn", "Injected", "Noise", "NotFinite", "Run", "StreamDiffusion", "drawn"]
