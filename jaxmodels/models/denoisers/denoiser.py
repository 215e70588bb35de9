"""What every denoiser answers to, what it gives, and the stages that it is made of."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
from flax import struct
from jaxtyping import Array, Float, Num

from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.modules import COMPUTE, Modules
from jaxmodels.models.scored import check_taps


@struct.dataclass
class Denoised:
    """What a denoiser made of a canvas.

    Attributes:
        prediction: [B, H, W, C_out]; of noise, velocity or data, as the model was trained. Where it also
            predicts a variance, the channels of that follow.
        taps: [B, S, D] each, the streams that were asked for by name.
    """

    prediction: jax.Array
    taps: dict[str, jax.Array]


def check_times(t: Any, batch: int) -> None:
    """Raises ValueError unless `t` is the time of each of `batch` rows."""
    if t.shape != (batch,):
        raise ValueError(f"t: expected [{batch}], got {list(t.shape)}")


@struct.dataclass
class Streams:
    """What flows from block to block.

    Attributes:
        hidden: [B, S, D], the stream of the canvas: its patches row by row, behind them the tokens that fill
            it to a length that the model wants, where it wants one (HiDream, Z-Image).
        context: [B, T, D], the stream of a text beside it; None where there is none, or where it has ended.
        others: what blocks leave for later ones beside the two.
        grid: rows and columns of the canvas's patches.
    """

    hidden: jax.Array
    context: Any = None
    others: Any = None
    grid: tuple[int, int] = struct.field(pytree_node=False, kw_only=True)


class StagedBlock(Protocol):
    """A block of a denoiser."""

    @property
    def module_names(self) -> tuple[str, ...]:
        """The names of its parts, in the order in which they are computed."""

    @property
    def gives_context(self) -> bool:
        """Whether there is a stream of a text behind it."""


class Stages(Protocol):
    """The stages of a denoiser, from which `InStages` makes the rest. They check nothing but by `check`.

    Samplers and caches call them one by one: what depends on the condition alone is made once for a run, what
    depends on time for all steps at once, and blocks are run where a cache wants them to be.
    """

    @property
    def projections(self) -> PatchProjections:
        """From patches to the stream and back; they say which canvases the model takes."""

    def named_blocks(self) -> Mapping[str, StagedBlock]:
        """The blocks in the order in which they run, by the path of their parameters."""

    def check(self, x: Array, t: Array, condition: Any) -> None:
        """Raises ValueError where canvases, times or condition do not fit the model or each other. It looks
        at shapes and dtypes only."""

    def abstract_condition(self, batch: int, tokens: int) -> Any:
        """A condition of `batch` rows as shapes and dtypes; tokens: of each text, in models that read one."""

    def read(self, params: Params, condition: Any) -> Any:
        """What depends on the condition alone: classes' rows, projected texts."""

    def conditions(self, params: Params, t: Num[Array, "B ..."], given: Any) -> Any:
        """What also depends on time: what the blocks and the last norm go by, vectors of each row.

        Args:
            params: those of `spec`.
            t: the time of each row, see `Denoiser.denoise`.
            given: what `read` gave.
        """

    def embed(self, params: Params, x: Float[Array, "B H W C"], given: Any) -> Streams:
        """The streams in front of the first block."""

    def run(
        self,
        params: Params,
        streams: Streams,
        made: Any,
        given: Any,
        blocks: range,
        modules: Modules = COMPUTE,
    ) -> Streams:
        """The streams behind these blocks, from those in front of them.

        Args:
            params: those of `spec`.
            streams: what `embed` gave, or `run` for the blocks before.
            made: what `conditions` gave.
            given: what `read` gave.
            blocks: numbers in the order of `named_blocks`.
            modules: the hook at which the blocks' parts are computed.
        """

    def finish(
        self, params: Params, streams: Streams, made: Any, height: int, width: int
    ) -> Float[Array, "B H W O"]:
        """The prediction, from the streams behind the last block."""


class Denoiser(Stages, Protocol):
    """A model of one denoising step. Implementations are hashable frozen dataclasses, at once configuration
    and module, and inherit what `InStages` makes of their stages."""

    @property
    def family(self) -> str | None:
        """What it was read as and is written back as, None if it has no such form."""

    @property
    def sample_size(self) -> int:
        """Height and width of the canvases that it was trained on, or is usually run with."""

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""

    @property
    def num_blocks(self) -> int:
        """How many blocks there are."""

    @property
    def num_times(self) -> int:
        """2 for a model of two times, such as those of few steps; else 1."""

    @property
    def taps(self) -> tuple[str, ...]:
        """The names of the streams that `denoise` can give."""

    def module_names(self) -> tuple[str, ...]:
        """The names that `run` calls its hook with, in that order."""

    def denoise(
        self,
        params: Params,
        x: Float[Array, "B H W C"],
        t: Num[Array, "B ..."],
        condition: Any,
        *,
        taps: Sequence[str] = (),
    ) -> Denoised:
        """The prediction for noisy canvases at times `t`, under what the model is conditioned on.

        Args:
            params: those of `spec`.
            x: canvases, channels last.
            t: the time of each row, as the model was trained on it; models of two times take both, [B, 2].
            condition: a class of each row, or whatever the model takes.
            taps: streams to give beside the prediction: "embeddings", "blocks/3" (behind block 3),
                "blocks/3/context".

        Raises:
            ValueError: canvases, times or condition do not fit the model or each other; it has no such tap.
        """


class InStages:
    """What denoisers inherit: the rest of `Denoiser`, from their stages."""

    @property
    def num_blocks(self: Stages) -> int:
        """How many blocks there are."""
        return len(self.named_blocks())

    @property
    def num_times(self) -> int:
        """1."""
        return 1

    @property
    def taps(self: Stages) -> tuple[str, ...]:
        """The names of the streams that `denoise` can give."""
        blocks = self.named_blocks()
        contexts = (f"{name}/context" for name, block in blocks.items() if block.gives_context)
        return ("embeddings", *blocks, *contexts)

    def module_names(self: Stages) -> tuple[str, ...]:
        """The names that `run` calls its hook with, in that order."""
        blocks = self.named_blocks().items()
        return tuple(f"{name}/{part}" for name, block in blocks for part in block.module_names)

    def denoise(
        self: Denoiser,
        params: Params,
        x: Float[Array, "B H W C"],
        t: Num[Array, "B ..."],
        condition: Any,
        *,
        taps: Sequence[str] = (),
    ) -> Denoised:
        """See `Denoiser.denoise`; the model's `read` says what its condition is."""
        self.check(x, t, condition)
        check_taps(taps, self.taps)
        given = self.read(params, condition)
        made = self.conditions(params, t, given)
        streams = self.embed(params, x, given)
        seen = {"embeddings": streams.hidden}
        for i, name in enumerate(self.named_blocks()):
            streams = self.run(params, streams, made, given, range(i, i + 1))
            seen |= {name: streams.hidden, f"{name}/context": streams.context}
        prediction = self.finish(params, streams, made, x.shape[1], x.shape[2])
        return Denoised(prediction, {name: seen[name] for name in taps})
