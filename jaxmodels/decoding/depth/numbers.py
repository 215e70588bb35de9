"""Checks of the numbers that policies of depth are given."""

from typing import Any

from jaxmodels.checks import shown, whole


def check_numbers_of_blocks(name: str, blocks: Any) -> tuple[int, ...]:
    """`blocks` as a tuple. Raises ValueError where they are not numbers of blocks in order, each once."""
    if not isinstance(blocks, list | tuple) or not blocks:
        raise ValueError(f"{name} must be numbers of blocks, such as (1, 2, 3), got {shown(blocks)}")
    numbers = tuple(whole(f"{name}[{i}]", block, low=0) for i, block in enumerate(blocks))
    if list(numbers) != sorted(set(numbers)):
        raise ValueError(f"{name} must rise, got {list(numbers)}")
    return numbers
