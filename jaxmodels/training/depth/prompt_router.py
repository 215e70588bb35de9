"""Training of Dr.LLM's routers: plans are searched for, and the routers learn to tell them."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmodels.checks import number, whole
from jaxmodels.decoding.depth.plans import RowPlans
from jaxmodels.decoding.depth.prompt_router import VERDICTS, Pooled, PromptRouter, pooled
from jaxmodels.layers.spec import ZEROS, FanIn, Param, Params, ParamTree
from jaxmodels.models.block import Stream
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.depth import Pass, Walk
from jaxmodels.models.depth_forward import forward_by_depth
from jaxmodels.training.depth.objective import Frozen
from jaxmodels.training.depth.plan_search import PlanSearch

_AT_ONCE = 64  # prompts that are read in one batch


@dataclass(frozen=True, kw_only=True)
class PromptRouterTraining:
    """A `PromptRouter`, and its supervised training: of windows of text the leading tokens are prompts, and
    `PlanSearch` finds the plan under which the rest of the window costs no more than under the whole model.

    The routers see what the prompts become under their plans, and are trained by the focal loss of the
    verdicts, with classes weighted by their effective numbers. Source: Dr.LLM and its released code.

    Attributes:
        prompt: tokens of a prompt.
        prompts: how many are searched for.
        search: how.
        hidden, windows: see `PromptRouter`.
        gamma: of the focal loss.
        beta: of the effective numbers ``(1 - beta**n) / (1 - beta)``.

    Raises:
        ValueError: a field is out of range; when run, fewer windows than `prompts`, or windows with no text
            behind a prompt.
    """

    prompt: int = 64
    prompts: int = 256
    search: PlanSearch = field(default_factory=PlanSearch)
    hidden: int = 128
    windows: int = 8
    gamma: float = 2.0
    beta: float = 0.999

    def __post_init__(self) -> None:
        for name in ("prompt", "prompts", "hidden", "windows"):
            whole(f"PromptRouterTraining: {name}", getattr(self, name), low=1)
        number("PromptRouterTraining: gamma", self.gamma, low=0)
        if number("PromptRouterTraining: beta", self.beta, low=0, high=1) == 1:
            raise ValueError(
                "PromptRouterTraining: beta must be below 1, where classes have an effective number"
            )

    def spec(self, model: Decoder) -> ParamTree:
        """Every prompt is at first told to run every block, were it not for chance."""
        blocks, width, hidden, verdicts = len(model.blocks), model.d_model, self.hidden, len(VERDICTS)
        return {
            "w_in": Param((blocks, hidden, width), ("layers", None, "embed"), FanIn(width)),
            "b_in": Param((blocks, hidden), ("layers", None), ZEROS),
            "w_out": Param((blocks, verdicts, hidden), ("layers", None, None), FanIn(hidden)),
            "b_out": Param((blocks, verdicts), ("layers", None), ZEROS),
        }

    def examples(self, frozen: Frozen, windows: Int[np.ndarray, "N S"], seed: int) -> dict[str, np.ndarray]:
        """Of each prompt its parts in front of each block [N, L, W, D] and their number [N], the verdicts of
        its plan [N, L], and the weights of their classes [N, L]."""
        if windows.shape[1] <= self.prompt or len(windows) < self.prompts:
            raise ValueError(
                f"prompt_router: prompt={self.prompt} and prompts={self.prompts} need so many windows of "
                f"more tokens than a prompt; there are {len(windows)} of sequence_length={windows.shape[1]}"
            )
        chosen = np.random.default_rng(seed).permutation(len(windows))[: self.prompts]
        texts = [jnp.asarray(windows[rows]) for rows in np.array_split(chosen, -(-self.prompts // _AT_ONCE))]
        cost = partial(_costs, frozen, texts, self.prompt)
        plans = self.search.best(cost, self.prompts, len(frozen.model.blocks), seed)
        parts, start = [], 0
        for text in texts:
            some = jnp.asarray(plans[start : start + len(text)])
            parts.append(
                _gathered(
                    frozen.params,
                    text[:, : self.prompt],
                    some,
                    model=frozen.model,
                    windows=self.windows,
                )
            )
            start += len(text)
        means, there = (np.concatenate([np.asarray(part[i]) for part in parts]) for i in (0, 1))
        weights = self._class_weights(np.bincount(plans.ravel(), minlength=len(VERDICTS)))
        return {"means": means, "there": there, "verdicts": plans, "weights": weights[plans]}

    def loss(
        self, frozen: Frozen, params: Params, batch: Any, key: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        policy, total = self.policy(frozen.model, params), jnp.zeros(())
        for block in range(len(frozen.model.blocks)):
            parts = Pooled(means=batch["means"][:, block], there=batch["there"])
            log_p = jax.nn.log_softmax(policy.logits(block, parts))
            log_p = jnp.take_along_axis(log_p, batch["verdicts"][:, block, None], axis=1)[:, 0]
            total -= (batch["weights"][:, block] * (1 - jnp.exp(log_p)) ** self.gamma * log_p).mean()
        return total, total

    def policy(self, model: Decoder, params: Params) -> PromptRouter:
        return PromptRouter(**params, windows=self.windows)

    def _class_weights(self, counts: Int[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
        """By the inverse of the effective numbers, with mean 1; verdicts that no plan has get none."""
        effective = (1 - self.beta ** counts.astype(np.float64)) / (1 - self.beta)
        weights = np.where(counts > 0, 1 / np.maximum(effective, 1e-9), 0.0)
        return (weights / weights.sum() * (counts > 0).sum()).astype(np.float32)


def _costs(
    frozen: Frozen, texts: list[Array], prompt: int, plans: Int[np.ndarray, "N L"]
) -> Float[np.ndarray, "N"]:
    """Nats per token behind the prompt under each text's plan."""
    parts, start = [], 0
    for text in texts:
        some = jnp.asarray(plans[start : start + len(text)])
        parts.append(_nats(frozen.params, text, some, model=frozen.model, prompt=prompt))
        start += len(text)
    return np.concatenate([np.asarray(part) for part in parts])


@partial(jax.jit, static_argnames=("model", "prompt"))
def _nats(
    params: Params, tokens: Int[Array, "B S"], plans: Int[Array, "B L"], *, model: Decoder, prompt: int
) -> Float[Array, "B"]:
    logits, _ = forward_by_depth(model, params, tokens, RowPlans(plans))
    log_p = jax.nn.log_softmax(logits[:, prompt - 1 : -1])
    return -jnp.take_along_axis(log_p, tokens[:, prompt:, None], axis=2)[..., 0].mean(1)


@dataclass(frozen=True)
class _Gathering:
    """A `Depth` by plans that notes the parts of each row in front of each block."""

    plans: RowPlans
    windows: int

    def most_passes(self, blocks: int) -> tuple[int, ...]:
        return self.plans.most_passes(blocks)

    def begin(self, walk: Walk) -> Walk:
        return replace(self.plans.begin(walk), notes=())

    def through(self, offered: Pass, stream: Stream, walk: Walk) -> tuple[Stream, Any, Walk]:
        if offered.repeat == 0:
            walk = replace(walk, notes=(*walk.notes, pooled(stream, walk.window, self.windows)))
        return self.plans.through(offered, stream, walk)


@partial(jax.jit, static_argnames=("model", "windows"))
def _gathered(
    params: Params, tokens: Int[Array, "B S"], plans: Int[Array, "B L"], *, model: Decoder, windows: int
) -> tuple[Float[Array, "B L W D"], Int[Array, "B"]]:
    _, walk = forward_by_depth(model, params, tokens, _Gathering(RowPlans(plans), windows))
    return jnp.stack([parts.means for parts in walk.notes], axis=1), walk.notes[0].there
