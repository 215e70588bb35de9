"""What a layout of modules for multi-token prediction is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxmodels.checks import whole
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache.full import FULL_CACHE
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.models.block import Block, DecoderBlock
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.draft_heads.mtp import MTPHead, MTPModule
from jaxmodels.models.families import FAMILIES
from jaxmodels.models.family import Table, Weight
from jaxmodels.models.hf_config import MOST_LAYERS, ConfigError


@dataclass(frozen=True, kw_only=True)
class MTPLayout:
    """How checkpoints of some families hold their modules.

    The names of a block's tensors end as those of the family's own blocks do. In names, ``{k}`` stands for
    the module, ``{n}`` for the number of a block, ``{first}`` and ``{last}`` for those of the module's first
    and last block.

    Attributes:
        model_types: the families.
        count_key: the configuration's key that holds the number of modules.
        read_blocks: the blocks of one module, from the model and the other keys of its configuration.
        architecture: what the architecture of modules alone is called, in other engines too.
        first_number: the number of the first module's first block, from the model.
        block: what the names of a block's tensors begin with.
        weights: the rows of the other tensors; their parameters stand under ``modules/{k}/``.
        unused: regular expressions of tensors that are not needed, such as copies of the model's own.
    """

    model_types: tuple[str, ...]
    count_key: str
    read_blocks: Callable[[Decoder, Mapping[str, Any]], tuple[DecoderBlock, ...]]
    architecture: str
    first_number: Callable[[Decoder], int]
    block: str
    weights: tuple[Weight, ...]
    unused: tuple[str, ...] = ()

    def read_head(self, config: Decoder, values: Mapping[str, Any]) -> MTPHead | None:
        """The head that a model's configuration announces, None where it says that there is none.

        A configuration without the key does not say, and one module is assumed.

        Raises:
            ConfigError: the number is none, or the modules are of a kind that the model does not have.
        """
        try:
            count = whole(f"config: key {self.count_key!r}", values.get(self.count_key, 1), high=MOST_LAYERS)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if count == 0:
            return None
        norm = config.final_norm
        if not isinstance(norm, RMSNorm):
            raise ConfigError(f"modules for multi-token prediction have RMSNorms, the model has {norm}")
        blocks = tuple(map(plain, self.read_blocks(config, values)))
        module = MTPModule(embed_norm=norm, hidden_norm=norm, blocks=blocks, final_norm=norm)
        return MTPHead(
            vocab_size=config.vocab_size,
            d_model=config.d_model,
            num_layers=len(config.blocks),
            family=config.family,
            modules=(module,) * count,
        )

    def table(self, config: Decoder, head: MTPHead) -> Table[MTPHead]:
        """The table of the tensors of a model's head."""
        return Table(
            model_type=f"modules of {config.family} for multi-token prediction",
            weights=tuple(self._rows(config, head)),
            unused=self.unused,
        )

    def _rows(self, config: Decoder, head: MTPHead) -> list[Weight]:
        family, first = FAMILIES[str(config.family)], self.first_number(config)
        of_blocks = family.table(replace(config, blocks=head.blocks))
        front = next(row.theirs for row in family.weights if "{i}" in row.theirs).split("{i}")[0]
        rows, index = [], 0
        for k, module in enumerate(head.modules):
            last = first + index + len(module.blocks) - 1
            places = {"{k}": k, "{first}": first + index, "{last}": last}
            rows += [_named(row, f"modules/{k}/", places) for row in self.weights]
            for place in range(len(module.blocks)):
                begins = _filled(self.block, {"{k}": k, "{n}": first + index})
                moved = {
                    f"blocks/{index}/": f"modules/{k}/blocks/{place}/",
                    f"{front}{index}.": begins,
                }
                rows += [_moved(row, moved) for row in of_blocks if row.ours.startswith(f"blocks/{index}/")]
                index += 1
        return rows


def plain(block: Any) -> Block:
    """A model's block as a module has it: with a cache of all tokens, whatever policy the model's is under.

    Raises ConfigError where the block is of another kind.
    """
    if not isinstance(block, Block):
        raise ConfigError(
            f"modules for multi-token prediction hold blocks such as Block, the model has {block}"
        )
    if isinstance(block.mixer, Attention):
        return replace(block, mixer=replace(block.mixer, cache=FULL_CACHE))
    return block


def _named(row: Weight, front: str, places: Mapping[str, int]) -> Weight:
    return replace(row, ours=front + row.ours, theirs=_filled(row.theirs, places))


def _filled(name: str, places: Mapping[str, int]) -> str:
    for placeholder, number in places.items():
        name = name.replace(placeholder, str(number))
    return name


def _moved(row: Weight, moved: Mapping[str, str]) -> Weight:
    """The row with other beginnings of its names, each by the one that it has."""

    def renamed(name: str) -> str:
        for old, new in moved.items():
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name

    after = None if row.after is None else renamed(row.after)
    return replace(row, ours=renamed(row.ours), theirs=renamed(row.theirs), after=after, mixer=None)
