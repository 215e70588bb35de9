"""Which blocks to leave out for a speed-up that is asked for: Unified Layer Skipping."""

from jaxmodels.checks import number, whole
from jaxmodels.decoding.depth.plans import Plan
from jaxmodels.models.block import block_flops
from jaxmodels.models.language_model import BlockByBlock


def layers_for_speed_up(model: BlockByBlock, speed_up: float, *, context: int = 0) -> Plan:
    """The `Plan` with the most blocks whose `speed_up_of` is at least `speed_up`.

    The first and the last block stay, and others at equal distances between them, see `spaced_blocks`. The
    text plays no part, so that every token of every row costs the same. Source: Liu et al. 2024 (Unified
    Layer Skipping, https://arxiv.org/abs/2404.06954) with the spacing of its released code, which counts
    blocks alone; here the head's cost counts too. The authors then fine-tune the model with the blocks that
    stay; a model whose blocks were dropped in training, as LayerSkip's are, needs that less.

    Args:
        speed_up: of a step, at least 1.
        context: tokens that a step sees.

    Raises:
        ValueError: `speed_up` is below 1, or more than two blocks and the head give; a block does not know
            its cost.
    """
    number("speed_up", speed_up, low=1.0)
    total = len(model.blocks)
    for kept in range(total, 1, -1):
        plan = Plan(tuple(int(i in spaced_blocks(total, kept)) for i in range(total)))
        if speed_up_of(model, plan, context=context) >= speed_up:
            return plan
    raise ValueError(
        f"speed_up={speed_up:g} is more than this model of {total} blocks can give: with the first and the "
        f"last block alone it is {most_speed_up(model, context=context):.2f}"
    )


def most_speed_up(model: BlockByBlock, *, context: int = 0) -> float:
    """The `speed_up_of` a step of the first and the last block alone."""
    total = len(model.blocks)
    return speed_up_of(model, Plan(tuple(int(i in (0, total - 1)) for i in range(total))), context=context)


def speed_up_of(model: BlockByBlock, plan: Plan, *, context: int = 0) -> float:
    """What a step of all blocks costs, over what it costs by `plan`: FLOPs of the blocks and the head.

    Decoding few rows reads each weight once for two FLOPs per row, so that it stands for the time as well
    where blocks are large enough for what is beside them to be small.

    Raises ValueError where the plan is for another number of blocks, or a block does not know its cost.
    """
    plan.most_passes(len(model.blocks))
    context = whole("context", context)
    costs = [block_flops(block, context) for block in model.blocks]
    read = sum(cost * times for cost, times in zip(costs, plan.passes, strict=True))
    return (sum(costs) + model.head_flops) / (read + model.head_flops)


def spaced_blocks(total: int, kept: int) -> tuple[int, ...]:
    """Numbers of `kept` of `total` blocks: the first, the last, and those at equal distances between, until
    there are enough."""
    if kept >= total:
        return tuple(range(total))
    distance = total // (kept - 1)
    between = [i for i in range(1, total - 1) if i % distance == 0][: kept - 2]
    return (0, *between, total - 1)
