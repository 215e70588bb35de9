"""How evenly a model uses its experts, as numbers and as text."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxmodels.layers.moe.routing import Routing, expert_load


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """One layer's expert load over some tokens.

    Attributes:
        load: slots filled per expert.
        tokens: real tokens.
        per_token: experts per token, in the mean.
        busiest: the largest load over the mean one, 1 under perfect balance.
        balance: entropy of the load over that of an even one, 0 to 1.
        unused: experts without a token.
    """

    load: tuple[int, ...]
    tokens: int

    @property
    def per_token(self) -> float:
        return sum(self.load) / max(self.tokens, 1)

    @property
    def busiest(self) -> float:
        return max(self.load) * len(self.load) / max(sum(self.load), 1)

    @property
    def balance(self) -> float:
        total, count = sum(self.load), len(self.load)
        if total == 0 or count == 1:
            return 1.0
        shares = [filled / total for filled in self.load if filled]
        return -sum(share * math.log(share) for share in shares) / math.log(count)

    @property
    def unused(self) -> tuple[int, ...]:
        return tuple(i for i, filled in enumerate(self.load) if filled == 0)


def load_report(routing: Routing) -> LoadReport:
    """The report of one layer's routing."""
    tokens = math.prod(routing.logits.shape[:-1]) if routing.valid is None else int(routing.valid.sum())
    return LoadReport(load=tuple(np.asarray(expert_load(routing)).tolist()), tokens=tokens)


def format_report(reports: Mapping[str, LoadReport]) -> str:
    """One line per layer, keyed by block: experts per token, busiest, balance, unused experts."""
    lines = ["block  experts/token  busiest/mean  balance  unused"]
    for name, report in reports.items():
        lines.append(
            f"{name:>5}  {report.per_token:13.2f}  {report.busiest:12.2f}  {report.balance:7.3f}  "
            f"{len(report.unused):6d}"
        )
    return "\n".join(lines)


def chunk_sparsity(routing: Routing, size: int) -> float:
    """The share of experts that no token of a chunk uses, in the mean over chunks of `size` tokens of a row.

    What a chunk's tokens use together is what must be read to compute them at once (BlockFFN's chunk-level
    sparsity; with `size` 1 its token-level sparsity). Tokens that fill no whole chunk are left out.

    Raises:
        ValueError: `size` is below 1 or exceeds the tokens of a row.
    """
    used = np.asarray(routing.drop_padding().assigned()) > 0
    batch, tokens, experts = used.shape
    if not 1 <= size <= tokens:
        raise ValueError(f"chunk_sparsity: size must be between 1 and {tokens}, a row's tokens; got {size}")
    whole = used[:, : tokens // size * size].reshape(batch, -1, size, experts)
    return float(1.0 - whole.any(2).mean())
