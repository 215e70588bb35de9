"""The shortest time that a program can take on one device: arithmetic, memory, interconnect at their peaks.

Latencies are not in it: of operations, of collectives, of the host. It bounds a time from below and says what
bounds it.
"""

from dataclasses import dataclass
from typing import Literal

from jaxmodels.models.costs import flops_per_token, prefill_flops
from jaxmodels.models.decoder import Decoder
from jaxmodels.tpu_configs.plan.spread import Spread
from jaxmodels.tpu_configs.programs import Workload
from jaxmodels.tpu_configs.slices import Chip

Bound = Literal["arithmetic", "memory", "interconnect"]


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """One program on one device.

    Attributes:
        flops: operations.
        read: bytes to and from memory: parameters and cache; activations are not counted.
        exchanged: bytes sent to other devices.
        arithmetic, memory, interconnect: seconds that each takes at its peak.
    """

    flops: float
    read: float
    exchanged: float
    arithmetic: float
    memory: float
    interconnect: float

    @property
    def seconds(self) -> float:
        """Arithmetic runs beside memory traffic; what layers exchange, the next layer waits for."""
        return max(self.arithmetic, self.memory) + self.interconnect

    @property
    def bound(self) -> Bound:
        """What takes longest."""
        times: dict[Bound, float] = {
            "arithmetic": self.arithmetic,
            "memory": self.memory,
            "interconnect": self.interconnect,
        }
        return max(times, key=lambda name: times[name])


def roofline(chip: Chip, dtype: str, flops: float, read: float, exchanged: float) -> Roofline:
    """The times of one device of `chip`, which has its share of the chip's peaks."""
    share = chip.devices
    return Roofline(
        flops=flops,
        read=read,
        exchanged=exchanged,
        arithmetic=flops * share / chip.peak(dtype),
        memory=read * share / chip.bandwidth,
        # Half of what is published: bytes one way, of which each that is sent is received as well.
        interconnect=exchanged * share / (chip.interconnect / 2),
    )


def prefill_roofline(spread: Spread, workload: Workload, window: int, chip: Chip) -> Roofline:
    """Of settling the prompts, in windows of at most `window` tokens, which read the parameters once each."""
    prompt, passes = workload.prompt, -(-workload.prompt // window)
    return roofline(
        chip,
        workload.dtype,
        _share_of(spread, prefill_flops(spread.config, prompt)),
        passes * spread.parameters + spread.history,
        _exchanged(spread, prompt, passes),
    )


def decode_roofline(spread: Spread, workload: Workload, tokens: int, chip: Chip) -> Roofline:
    """Of one step that scores `tokens` tokens of each row behind the prompt."""
    per_token = flops_per_token(spread.config, workload.prompt + tokens).total
    return roofline(
        chip,
        workload.dtype,
        _share_of(spread, tokens * per_token),
        spread.read + spread.history,
        _exchanged(spread, tokens, 1),
    )


def _share_of(spread: Spread, flops_per_row: float) -> float:
    """A device's part of the operations on all rows."""
    return flops_per_row * (spread.rows * spread.dense + spread.all_rows * spread.routed)


def _exchanged(spread: Spread, tokens: float, passes: int) -> float:
    """Bytes that a device sends while `tokens` tokens of each row go through all layers, in bfloat16.

    An all-reduce behind each mixer and feed-forward that is cut over "tensor", of which each device sends all
    but its part twice (a ring); each expert's tokens there and back; and with "fsdp" the parameters, once for
    each pass.
    """
    sizes, config = spread.sizes, spread.config
    tensor, expert, fsdp = sizes["tensor"], sizes["expert"], sizes["fsdp"]
    activation = 2 * config.d_model * tokens
    reduced = _parts(config) * activation * spread.rows * 2 * (tensor - 1) / tensor
    routed = 2 * _chosen(config) * activation * spread.all_rows * (expert - 1) / expert / expert
    return reduced + routed + passes * spread.parameters * (fsdp - 1)


def _parts(config: Decoder) -> int:
    """Mixers and feed-forwards of all blocks."""
    return sum((block.mixer is not None) + (block.ffn is not None) for block in config.blocks)


def _chosen(config: Decoder) -> int:
    """Experts that one token is sent to, over all blocks."""
    routers = (getattr(block.ffn, "router", None) for block in config.blocks)
    return sum(int(getattr(router, "top_k", 0)) for router in routers)
