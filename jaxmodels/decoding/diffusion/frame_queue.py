"""`FrameQueue`: long videos whose frames are denoised block by block while devices each hold some layers.

The frames are cut into blocks, which wait in a queue with one place for each step: the block at the end has
all its noise, each one before it has taken a step more, and the first is done behind its last. A sweep takes
every block in the queue a step further, from the end to the front; then the first leaves and a new one comes.

Under a mesh whose axis "sequence" has several devices, each has some consecutive layers, and blocks flow
through the devices: while one computes its layers of a block, the one before it computes its own of the next
block. All that is sent is the stream of a block, to the device behind, and from the last to the first. The
queue must be as long as there are devices, so that a block has come out when its next step begins; the
results are then those of one device.

A block is shown the last frames of the block in front of it, whose noise is lower, as further frames. Of the
block behind it, which was computed just before, it is shown the first frames, from what each layer kept.

Source: DualParal (https://arxiv.org/abs/2505.21070) and its code for Wan. Inferred, or other than there:

- What a layer keeps are its inputs, from which it makes keys and values again, at the positions behind the
  block; the code keeps keys and values in front of norm and rotation, which saves the products.
- All blocks are equally long; in the code the first has more frames, in the place of those before it.
- In the code a block takes its step as soon as its prediction happens to arrive, here always just before the
  device begins another block.
- Noise is the caller's: `FrameQueue.noise` gives what the paper begins with, in which the first block has as
  many frames as the others.
"""

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Key

from jaxmodels.checks import whole
from jaxmodels.decoding.diffusion.prediction import Predicted
from jaxmodels.decoding.diffusion.samplers.sampler import Plan, Sampler
from jaxmodels.decoding.programs import bounded_jit
from jaxmodels.decoding.strategy import check_policy
from jaxmodels.layers.mapped import varying_like
from jaxmodels.layers.sequence_parts import SEQUENCE, number_of_part, on_each_part
from jaxmodels.layers.spec import Params
from jaxmodels.pytrees import register_dataclass


class VideoLayers(Protocol):
    """A denoiser of videos as equal layers, whose parameters are stacked along their first dimension.
    Implementations are hashable."""

    def embed(
        self, ends: Params, frames: Float[Array, "B F N C"], time: Float[Array, ""]
    ) -> Float[Array, "B F N D"]:
        """The stream in front of the first layer, of F frames of N patches at this time."""

    def layer(
        self, layer: Params, hidden: Float[Array, "B F N D"], seen: Bool[Array, "F"], time: Float[Array, ""]
    ) -> Float[Array, "B F N D"]:
        """The stream behind a layer; frames that are not `seen` are looked at by none."""

    def predict(self, ends: Params, hidden: Float[Array, "B F N D"]) -> Float[Array, "B F N C"]:
        """The prediction, from the stream behind the last layer."""


@struct.dataclass
class _Flow:
    """What a device hands to its next turn.

    Attributes:
        blocks: f32[K, B, F, N, C], all frames; on the first device those that are, elsewhere noise.
        hidden: [B, C + F, N, D], what the device before sent.
        kept: [L, B, C, N, D], the first frames of the last block in front of each of the device's layers.
    """

    blocks: jax.Array
    hidden: jax.Array
    kept: jax.Array


@dataclass(frozen=True, kw_only=True)
class FrameQueue:
    """Denoises a video block by block; see this module's docstring.

    Attributes:
        sampler: how predictions become canvases: one without memory or fresh noise, such as `FlowEuler`.
        steps: of each block, and places in the queue.
        context: frames of the blocks in front of a block and behind it that it is shown.

    Raises:
        ValueError: an option of another kind. When run: a sampler with memory or fresh noise, blocks shorter
            than `context`, more devices than steps, or layers that the devices cannot share evenly.
    """

    sampler: Sampler
    steps: int
    context: int

    def __post_init__(self) -> None:
        check_policy("sampler", self.sampler, "plan", "FlowEuler()")
        whole("FrameQueue: steps", self.steps, low=1)
        whole("FrameQueue: context", self.context, low=1)

    def run(
        self, model: VideoLayers, layers: Params, ends: Params, noise: Float[Array, "K B F N C"]
    ) -> Float[Array, "K B F N C"]:
        """The frames of all K blocks.

        Args:
            model: what predicts.
            layers: the parameters of its layers, stacked.
            ends: all others.
            noise: what each block begins with, of unit variance, as `noise` gives it.

        Raises:
            ValueError: see `FrameQueue`.
        """
        devices = dict(jax.sharding.get_abstract_mesh().shape).get(SEQUENCE, 1)
        self._check(layers, noise, devices)
        done: Array = whole_video(self, layers, ends, noise, model=model, devices=devices)
        return done

    def noise(self, keys: Key[Array, "B"], shape: tuple[int, int, int, int]) -> Float[Array, "K B F N C"]:
        """Noise for `run` that blocks share, so that a long video stays of one piece.

        A video draws `context` + F frames of noise, whatever its length. A block begins with those F of them,
        in an order of its own, that the last `context` frames of the block in front did not begin with: of
        what a block is shown in front of its own frames and among them no two frames have the same noise.

        Args:
            keys: one for each video, on which alone its noise depends.
            shape: blocks, frames of each, patches of a frame, channels of a patch.

        Raises:
            ValueError: `shape` holds other than whole numbers, or blocks shorter than `context`.
        """
        names = ("blocks", "frames", "patches", "channels")
        blocks, frames, *frame = (
            whole(f"FrameQueue.noise: {name}", size, low=1) for name, size in zip(names, shape, strict=True)
        )
        self._check_length(frames)

        def of_video(key: Key[Array, ""]) -> Float[Array, "K F N C"]:
            pool = jax.random.normal(jax.random.fold_in(key, 0), (self.context + frames, *frame))

            def follow(order: Array, number: Array) -> tuple[Array, Array]:
                others, last = order[:frames], order[frames:]
                chosen = jax.random.permutation(jax.random.fold_in(key, number), others)
                return jnp.concatenate([last, chosen]), chosen

            _, chosen = lax.scan(follow, jnp.arange(len(pool)), 1 + jnp.arange(blocks))
            return pool[chosen]

        return jax.vmap(of_video, out_axes=1)(keys)

    def _check_length(self, frames: int) -> None:
        if frames < self.context:
            raise ValueError(f"noise: blocks have {frames} frames, but context={self.context} are shown")

    def _check(self, layers: Params, noise: Array, devices: int) -> None:
        count = jax.tree.leaves(layers)[0].shape[0]
        self._check_length(noise.shape[2])
        if self.steps < devices or count % devices:
            raise ValueError(
                f"{devices} devices share a queue of at least as many steps and layers that they divide, got "
                f"{self.steps} steps and {count} layers"
            )
        if self.sampler.plan(self.steps, noise.shape[3]).draws or jax.tree.leaves(
            jax.eval_shape(self.sampler.begin, noise[0])
        ):
            raise ValueError(
                f"sampler={self.sampler} remembers earlier steps or draws noise, and blocks in a queue do not"
            )

    def _flow(
        self,
        model: VideoLayers,
        plan: Plan,
        layers: Params,
        ends: Params,
        blocks: Float[Array, "K B F N C"],
        *,
        devices: int,
        number: Array,
    ) -> Float[Array, "K B F N C"]:
        """The turns of one device, of which this is the `number`. Each computes a place of the queue in a
        sweep, and the first device before that gives the block that has come out its step."""
        places = (len(blocks) + self.steps - 1) * self.steps

        def turn(flow: _Flow, now: Array) -> tuple[_Flow, None]:
            is_first = number == 0
            block, step, was_here = self._block_at(now - devices, blocks)
            stepped = self._stepped(model, plan, ends, flow, block, step)
            flow = flow.replace(  # type: ignore[attr-defined]
                blocks=jnp.where(is_first & was_here, flow.blocks.at[block].set(stepped), flow.blocks)
            )
            block, step, is_here = self._block_at(now - number, blocks)
            began = self._embedded(model, plan, ends, flow.blocks, block, step)
            hidden = jnp.where(is_first, began, flow.hidden)
            hidden, kept = lax.cond(
                is_here,
                lambda: self._through(model, plan, layers, hidden, flow.kept, block, step, len(blocks)),
                lambda: (hidden, flow.kept),
            )
            if devices > 1:
                ring = [(i, (i + 1) % devices) for i in range(devices)]
                hidden = lax.ppermute(hidden, SEQUENCE, ring)
            return _Flow(flow.blocks, hidden, kept), None

        began = self._embedded(model, plan, ends, blocks, jnp.int32(0), jnp.int32(0))
        count = jax.tree.leaves(layers)[0].shape[0]
        kept = jnp.zeros((count, *began[:, : self.context].shape), began.dtype)
        first: _Flow = varying_like(_Flow(blocks, began, kept), number)
        flow, _ = lax.scan(turn, first, jnp.arange(places + devices))
        return flow.blocks

    def _block_at(self, place: Array, blocks: Array) -> tuple[Array, Array, Array]:
        """The block that comes so many places behind the begin, its step, and whether there is one."""
        sweep, step = place // self.steps, place % self.steps
        block = sweep - step
        is_here = (place >= 0) & (block >= 0) & (block < len(blocks))
        return jnp.clip(block, 0, len(blocks) - 1), step, is_here

    def _embedded(
        self, model: VideoLayers, plan: Plan, ends: Params, blocks: Array, block: Array, step: Array
    ) -> Float[Array, "B F N D"]:
        """The stream of a block, behind the last frames of the one in front of it."""
        before = blocks[jnp.maximum(block - 1, 0)][:, -self.context :]
        shown = jnp.concatenate([before, blocks[block]], axis=1) * jnp.asarray(plan.input_scale)[step]
        return model.embed(ends, shown, jnp.asarray(plan.times)[step])

    def _through(
        self,
        model: VideoLayers,
        plan: Plan,
        layers: Params,
        hidden: Float[Array, "B F N D"],
        kept: Float[Array, "L B C N D"],
        block: Array,
        step: Array,
        blocks: int,
    ) -> tuple[Float[Array, "B F N D"], Float[Array, "L B C N D"]]:
        """The stream behind the layers, and what each keeps for the block in front of this one."""
        context, size, time = self.context, hidden.shape[1], jnp.asarray(plan.times)[step]
        frame = jnp.arange(size + context)
        # In front of the first block there is none; behind the last one, and the newest, there is none yet.
        has_behind = (step > 0) & (block + 1 < blocks)
        seen = jnp.where(frame < context, block > 0, (frame < size) | has_behind)

        def one(hidden: Array, layer: tuple[Params, Array]) -> tuple[Array, Array]:
            params, behind = layer
            frames = jnp.concatenate([hidden, behind], axis=1)
            return model.layer(params, frames, seen, time)[:, :size], hidden[:, context : 2 * context]

        found: tuple[Array, Array] = lax.scan(one, hidden, (layers, kept))
        return found

    def _stepped(
        self, model: VideoLayers, plan: Plan, ends: Params, flow: _Flow, block: Array, step: Array
    ) -> Float[Array, "B F N C"]:
        """A block that has come out behind its step."""
        x, kind = flow.blocks[block], self.sampler.prediction
        output = model.predict(ends, flow.hidden[:, self.context :]).astype(jnp.float32)
        rows, alpha, sigma = jax.tree.map(lambda a: jnp.asarray(a)[step], (plan.rows, plan.alpha, plan.sigma))
        predicted = Predicted(output, x, alpha, sigma, kind)
        stepped, _ = self.sampler.step(predicted, rows, self.sampler.begin(x), None)
        return stepped.astype(jnp.float32)


register_dataclass(FrameQueue, [], ["sampler", "steps", "context"])


@bounded_jit(static_argnames=("model", "devices"))
def whole_video(
    queue: FrameQueue,
    layers: Params,
    ends: Params,
    noise: Float[Array, "K B F N C"],
    *,
    model: VideoLayers,
    devices: int,
) -> Float[Array, "K B F N C"]:
    """The program of a whole video."""
    plan: Plan = jax.tree.map(
        lambda rows: np.asarray(rows, np.float32), queue.sampler.plan(queue.steps, noise.shape[3])
    )
    blocks = noise.astype(jnp.float32) * plan.start
    if devices == 1:
        return queue._flow(model, plan, layers, ends, blocks, devices=1, number=jnp.int32(0))

    def stage(layers: Params, ends: Params, blocks: Array) -> Array:
        number = number_of_part()
        done = queue._flow(model, plan, layers, ends, blocks, devices=devices, number=number)
        return lax.psum(jnp.where(number == 0, done, 0), SEQUENCE)

    shared: Array = on_each_part(stage, (0, None, None), None)(layers, ends, blocks)
    return shared
