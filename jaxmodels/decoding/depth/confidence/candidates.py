"""A learned confidence that looks at the head for a few candidates alone, which a draft names."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxmodels.checks import is_traced
from jaxmodels.decoding.depth.confidence.classifiers import check_blocks
from jaxmodels.decoding.depth.confidence.confidence import Passed
from jaxmodels.models.depth import Walk
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True, eq=False)
class CandidateConfidence:
    """SpecEE's predictor: from the logits of K candidates, whether the exit says what the model would.

    Behind block i it is shown, for each token, the candidates' logits, their softmax among each other, and
    what of that is new since the exit before (at the first all of it), 3 K numbers; its confidence is
    ``sigmoid(w_out[i] . relu(w_in[i] shown + b_in[i]) + b_out[i])``. Where that reaches the threshold, the
    whole head is asked, once: a token whose best successor is no candidate does not leave. Source: SpecEE
    (https://arxiv.org/abs/2504.08850) and its released code, whose K is 4. The code leaves the histories of
    left blocks empty; here they are the policy's to fill.

    Attributes:
        w_in: f32[L, 3 K, H]. b_in: f32[L, H].
        w_out: f32[L, H]. b_out: f32[L].
        candidates: i32[B, S, K], what a draft expects behind each token; None until it has drafted, and then
            no token leaves. `SpeculativeExit` sets them.

    Raises:
        ValueError: parameters that do not fit each other or the candidates; when traced, a model of another
            number of blocks.
    """

    w_in: jax.Array
    b_in: jax.Array
    w_out: jax.Array
    b_out: jax.Array
    candidates: jax.Array | None = None

    def __post_init__(self) -> None:
        parts = (self.w_in, self.b_in, self.w_out, self.b_out)
        if any(map(is_traced, parts)):
            return
        w_in, *others = (jnp.shape(part) for part in parts)
        fits = len(w_in) == 3 and others == [(w_in[0], w_in[2]), (w_in[0], w_in[2]), w_in[:1]]
        if not fits or w_in[1] % 3:
            raise ValueError(
                "CandidateConfidence: w_in must be [L, 3 K, H], b_in and w_out [L, H] and b_out [L] for a "
                f"model of L blocks, got {', '.join(str(list(shape)) for shape in (w_in, *others))}"
            )

    @property
    def count(self) -> int:
        """K, the candidates of each token."""
        return int(self.w_in.shape[1]) // 3

    def __call__(self, passed: Passed) -> Float[Array, "B S"]:
        shape = (*passed.after.hidden.shape[:2], self.count)
        return self.follow(passed, jnp.zeros(shape, jnp.float32))[0]

    def begin(self, walk: Walk) -> Float[Array, "B S K"]:
        """What the candidates' probabilities were at the exit before: at the first nothing."""
        shape = walk.window.positions.shape
        if self.candidates is not None and self.candidates.shape != (*shape, self.count):
            raise ValueError(
                f"CandidateConfidence: candidates {list(self.candidates.shape)} are not "
                f"{[*shape, self.count]}, {self.count} for each token of the window"
            )
        check_blocks("CandidateConfidence", "w_in", self.w_in.shape[0], walk.blocks)
        return jnp.zeros((*shape, self.count), jnp.float32)

    def follow(
        self, passed: Passed, found: Float[Array, "B S K"]
    ) -> tuple[Float[Array, "B S"], Float[Array, "B S K"]]:
        if self.candidates is None:
            return jnp.zeros(found.shape[:2], jnp.float32), found
        i, logits = passed.index, passed.head_of(passed.after, self.candidates)
        p = jax.nn.softmax(logits, axis=-1)
        shown = jnp.concatenate([logits, p, p - found], axis=-1)
        inside = jax.nn.relu(shown @ self.w_in[i] + self.b_in[i])
        sure = jax.nn.sigmoid(inside @ self.w_out[i] + self.b_out[i])
        reached = sure >= passed.threshold
        candidates = self.candidates

        def says_one() -> Bool[Array, "B S"]:
            best = jnp.argmax(passed.head(passed.after), axis=-1)
            return (best[..., None] == candidates).any(-1)

        said = lax.cond(reached.any(), says_one, lambda: jnp.zeros(reached.shape, bool))
        return jnp.where(reached & ~said, 0.0, sure), p


register_dataclass(CandidateConfidence, ["w_in", "b_in", "w_out", "b_out", "candidates"], [])
