"""What an acceptance rule is: from the probabilities of a draft to those of its outcomes."""

from typing import Protocol

from jaxtyping import Array, Float, Int

from jaxmodels.decoding.trees import Tree


class Acceptance(Protocol):
    """A rule. Implementations are pytrees."""

    def outcomes(
        self,
        target: Float[Array, "B G+1 V"],
        draft: Float[Array, "B G V"],
        drafted: Int[Array, "B G"],
        tree: Tree | None = None,
    ) -> Float[Array, "B G+1 V"]:
        """Probability of accepting what leads to window token n and then emitting v, for a given draft.

        target: the model's distribution behind each window token, the newest token first.
        draft: the distributions that the tokens in `drafted` were drawn from, given their parents and those
            of their siblings that stand before them. A token to which it gives no probability is not there:
            it is never accepted and leaves the others as they are.
        tree: which token follows which; None where each follows the one before.

        Where every distribution is certain (one-hot), what is accepted is what equals. Greedy decoding counts
        on it, and does not ask the rule; see `longest_agreement`.
        """
