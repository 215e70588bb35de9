"""What a draft length is: a policy that says, round by round, how many tokens a drafter may draft."""

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int

if TYPE_CHECKING:
    from jaxmodels.decoding.drafters.drafter import Proposal


class DraftLength(Protocol):
    """Decides how long a draft is. A pytree: its numbers are data, and no length causes a compilation.

    Its state is a pytree of arrays that lead with B, whose type never changes. Rows do not depend on one
    another.

    Sampling stays exact as long as a decision reads nothing of the tokens that it keeps or drops: `limit`
    knows earlier rounds alone, and where `stop` ends a draft *behind* a token, that token is verified.
    """

    @property
    def varies(self) -> bool:
        """Whether drafts become shorter than the drafter's size, so that windows of several sizes pay."""

    @property
    def needs(self) -> frozenset[str]:
        """What a drafter must obey for the length to mean anything, see `Obeying`; others are refused."""

    def begin(self, batch: int) -> Any:
        """The state in front of the first round."""

    def limit(self, state: Any, size: int) -> Int[Array, "B"]:
        """The most tokens to draft in this round, 0 to `size`."""

    def stop(
        self, state: Any, index: Int[Array, ""] | int, probability: Float[Array, "B"]
    ) -> Bool[Array, "B"]:
        """Whether to draft nothing behind drafted token number `index` (from 0).

        probability: what the drafter gave the token, or what the policy made of it, see `Judging`. It costs
            nothing where the policy does not read it.
        """

    def update(self, state: Any, count: Int[Array, "B"], accepted: Int[Array, "B"]) -> Any:
        """The state behind a round in which `count` tokens were drafted and `accepted` of them were right.

        Rows that are done were drafted nothing.
        """


@runtime_checkable
class Judging(Protocol):
    """A `DraftLength` that looks into the model that drafts.

    Its `stop` is told its own judgement of a draft in place of the probability of the last token. Policies
    that do so have `HIDDEN` among their `needs`.
    """

    def judge(
        self, before: Float[Array, "B"], index: Int[Array, ""], hidden: Float[Array, "B D"]
    ) -> Float[Array, "B"]:
        """How probable it is that all drafted tokens are accepted which the drafting model has read.

        Args:
            before: the same in front of the token that it read last; 1 in front of the first.
            index: of that token in the window. Token 0 is the newest one, which is not drafted.
            hidden: the drafting model's hidden state at that token, behind the final norm.
        """


@runtime_checkable
class Sharing(Protocol):
    """A `DraftLength` in which rows do depend on one another: it decides once all of them have drafted."""

    def share(self, proposal: "Proposal") -> Int[Array, "B"]:
        """How many leading tokens of each row's proposal are verified, no more than there are."""
