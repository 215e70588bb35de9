"""Batched decoding of prompts of different lengths: the tokens of each prompt alone, at a higher rate.

    python -m benchmarks.batch --shape mamba2-130m

Every row of the batch must equal, token for token, the same prompt decoded alone; the script fails where one
does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

import jaxmodels as jm
from benchmarks.common import (
    Result,
    Table,
    Target,
    argument_parser,
    in_turns,
    publish,
    random_tokens,
    seconds,
)
from benchmarks.shapes import shape
from jaxmodels.decoding import Autoregressive
from jaxmodels.decoding.generation import Generated, Plan, plan, run
from jaxmodels.decoding.prompts import PromptBatch

STRATEGY = Autoregressive()


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Rows of one padded prompt array, so that rows alone and together use the same sizes."""

    model: jm.Model
    tokens: np.ndarray
    lengths: np.ndarray
    new: int

    def plan(self, rows: Sequence[int]) -> Plan:
        """The request for some rows."""
        prompts = PromptBatch(self.tokens[rows], self.lengths[rows])
        return plan(
            self.model.config, self.model.params, prompts, STRATEGY,
            max_new_tokens=self.new, stop_tokens=[], pad_token=0, seed=0, capacity=None,
        )  # fmt: skip

    def run(self, rows: Sequence[int]) -> Generated:
        """The tokens of some rows."""
        return run(self.model.config, self.model.params, STRATEGY, self.plan(rows))

    def clock(self, rows: Sequence[int]) -> float:
        """Seconds to prefill and decode some rows."""
        ready = jax.block_until_ready(self.plan(rows))
        return seconds(lambda: run(self.model.config, self.model.params, STRATEGY, ready).tokens)


def check(decoding: Decoding, batch: int) -> None:
    """Raises SystemExit where a row of the batch differs from the row alone."""
    together = decoding.run(range(batch)).tokens
    for row in range(batch):
        alone = decoding.run([row]).tokens[0]
        if not np.array_equal(together[row], alone):
            at = int(np.flatnonzero(together[row] != alone)[0])
            raise SystemExit(f"row {row} differs from the same prompt alone, first at token {at}")


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--shape", choices=["mamba2-130m", "qwen3-100m"], default="mamba2-130m")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--new", type=int, default=32, help="tokens to decode per row")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every measurement")
    arguments = parser.parse_args()
    longest = 128
    if arguments.quick:
        longest, arguments.new, arguments.rounds = 16, 8, 1
    batch, new = arguments.batch, arguments.new
    model = jm.init(jm.config_from_hf(shape(arguments.shape, tiny=arguments.quick)))
    lengths = np.linspace(longest // 16, longest, batch).astype(np.int32)
    tokens = random_tokens(model.config.vocab_size, batch, longest)
    decoding = Decoding(model=model, tokens=tokens, lengths=lengths, new=new)
    check(decoding, batch)
    timings = in_turns(
        {"alone": lambda: decoding.clock([batch - 1]), "together": lambda: decoding.clock(range(batch))},
        arguments.rounds,
    )
    alone, together = timings["alone"].median, timings["together"].median
    gain = batch * alone / together
    publish(
        Result(
            name=f"batch_{arguments.shape.replace('-', '_')}",
            title=f"Batch {batch} with prompts of different lengths, {arguments.shape}",
            method=f"Prompts of {', '.join(map(str, lengths.tolist()))} random tokens, padded to {longest}; "
            f"{new} new tokens per row, prefill included. Every row of the batch is, token for token, "
            "what the prompt gives alone.",
            values={
                "lengths": lengths.tolist(),
                "runs_s": {name: timing.runs for name, timing in timings.items()},
            },
            tables=[
                Table(
                    caption="Medians of the turns",
                    columns=["batch", "seconds", "new tokens per second"],
                    rows=[[1, alone, new / alone], [batch, together, batch * new / together]],
                )
            ],
            targets=[
                Target(what=f"throughput of batch {batch} over 1", measured=gain, sense="at least", aim=1.0)
            ],
        ),
        arguments,
    )


if __name__ == "__main__":
    main()
