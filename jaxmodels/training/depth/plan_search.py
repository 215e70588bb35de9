"""Which plan of skip, run and repeat serves a prompt best: a tree search per prompt, all prompts at once."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

from jaxmodels.checks import number, whole

Passes: TypeAlias = tuple[int, ...]
# From a plan per prompt, i32[N, L], to what each costs: nats of the text behind the prompt, f32[N].
Cost: TypeAlias = Callable[[Int[np.ndarray, "N L"]], Float[np.ndarray, "N"]]


@dataclass(frozen=True, kw_only=True)
class PlanSearch:
    """A Monte Carlo tree search over plans: the root runs every block once, and a child skips or repeats one
    or two neighbouring blocks of its parent's plan.

    A plan is worth 1 where the text behind the prompt costs no more under it than under the root's, and else
    0. The next plan to look at is found by the mean worth of the plans below it, the bonus of what was looked
    at seldom, and a penalty for passes. Source: Dr.LLM's released code, whose worth is a right answer.

    Attributes:
        simulations: plans looked at per prompt.
        exploration: weight of the bonus.
        length_penalty: for a plan of as many passes as there are blocks.
        random: probability of a random child in the place of the best.
        tolerance: by how much of its cost a text may cost more for the plan to be worth 1.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    simulations: int = 48
    exploration: float = 1.8
    length_penalty: float = 3.0
    random: float = 0.1
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        whole("PlanSearch: simulations", self.simulations, low=1)
        for name in ("exploration", "length_penalty", "tolerance"):
            number(f"PlanSearch: {name}", getattr(self, name), low=0)
        number("PlanSearch: random", self.random, low=0, high=1)

    def best(self, cost: Cost, prompts: int, blocks: int, seed: int) -> Int[np.ndarray, "N L"]:
        """The worthwhile plan of fewest passes found for each prompt; of several the one that costs least."""
        rng = np.random.default_rng(seed)
        roots = [_Node((1,) * blocks) for _ in range(prompts)]
        plain = cost(np.ones((prompts, blocks), np.int32))
        found = [{root.passes: (blocks, float(nats))} for root, nats in zip(roots, plain, strict=True)]
        for _ in range(self.simulations):
            paths = [self._path(root, rng) for root in roots]
            plans = [path[-1].passes for path in paths]
            costs = cost(np.asarray(plans, np.int32))
            for path, plan, nats, most, worthwhile in zip(paths, plans, costs, plain, found, strict=True):
                is_worth = bool(nats <= most * (1 + self.tolerance))
                if is_worth:
                    worthwhile[plan] = (sum(plan), float(nats))
                for node in path:
                    node.visits, node.worth = node.visits + 1, node.worth + is_worth
        return np.asarray([min(plans, key=lambda plan: plans[plan]) for plans in found], np.int32)

    def _path(self, node: "_Node", rng: np.random.Generator) -> list["_Node"]:
        """From the root to a node that is new, or has nothing left to try."""
        path = [node]
        while True:
            if node.untried is None:
                node.untried = _changed(node.passes, rng)
            if node.untried:
                node.children.append(_Node(node.untried.pop()))
                return [*path, node.children[-1]]
            if not node.children:
                return path
            node = self._chosen(node, rng)
            path.append(node)

    def _chosen(self, node: "_Node", rng: np.random.Generator) -> "_Node":
        if rng.random() < self.random:
            return node.children[rng.integers(len(node.children))]
        seen = math.log(max(node.visits, 1))

        def score(child: "_Node") -> float:
            passes = sum(child.passes) / len(child.passes)
            bonus = self.exploration * math.sqrt(seen / child.visits)
            return child.worth / child.visits + bonus - self.length_penalty * passes

        return max(node.children, key=score)


@dataclass(eq=False)
class _Node:
    """A plan in the tree, what is known of it and the plans below it, and the plans that it has not yet been
    changed to; None before it is changed for the first time."""

    passes: Passes
    children: "list[_Node]" = field(default_factory=list)
    untried: list[Passes] | None = None
    visits: int = 0
    worth: float = 0.0


def _changed(passes: Passes, rng: np.random.Generator) -> list[Passes]:
    """The plans with one or two neighbouring blocks skipped or repeated, in random order."""
    plans = {
        (*passes[:start], *(times,) * size, *passes[start + size :])
        for size in (1, 2)
        for start in range(len(passes) - size + 1)
        for times in (0, 2)
    }
    ordered = sorted(plans - {passes})
    return [ordered[i] for i in rng.permutation(len(ordered))]
