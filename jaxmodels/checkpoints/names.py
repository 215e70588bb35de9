"""From the names that a checkpoint stores to those of its family's table.

Checkpoints of one family differ in what stands in front of their names: ``model.`` is missing where the model
without its head was saved, and further words stand before it where the language model is part of another, as
in ``language_model.model.`` or ``base_model.model.model.``. What they have in common is how a name ends, and
the table says how the names of the family end. So nothing here knows a family.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property

from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family

# The head's names in checkpoints of any family; it stands outside of what all other names begin with.
HEADS = ("lm_head.weight", "embed_out.weight")

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_PLACEHOLDER = re.compile(r"\{[ie]\}")


@dataclass(frozen=True)
class TableNames:
    """How the names of one checkpoint follow from those of its family's table.

    Attributes:
        family: the family.
        prefix: what the checkpoint's names have in front where the table's have `base`; each is empty or ends
            in a dot.
    """

    family: Family[Decoder]
    prefix: str

    @cached_property
    def base(self) -> str:
        """What all names of the table but the head's begin with, such as ``"model."``."""
        return base_prefix(self.family)

    def in_table(self, stored: str) -> str:
        """The table's name for a stored tensor; of one that is outside of the prefix, the name itself."""
        return self._head(stored) or self.family.name_in_table(self.moved(stored))

    def moved(self, stored: str) -> str:
        """The name with the table's prefix in place of the checkpoint's."""
        return self.base + stored.removeprefix(self.prefix) if stored.startswith(self.prefix) else stored

    def layer(self, stored: str) -> int | None:
        """The number of the layer that a stored tensor belongs to, None where it is of no layer."""
        found = self._layers.match(stored)
        return None if found is None else int(found[1])

    def _head(self, stored: str) -> str | None:
        """The table's name of the head, if that is what the stored tensor is."""
        for head in {*HEADS, self.family.head_name}:
            if not stored.endswith(head):
                continue
            front = stored.removesuffix(head)  # "language_model." beside "language_model.model.layers.0..."
            if front == "" or (front.endswith(".") and self.prefix.startswith(front)):
                return self.family.head_name
        return None

    @cached_property
    def _layers(self) -> re.Pattern[str]:
        """Matches what names of layers begin with, up to the dot behind the number."""
        fronts = {row.theirs.split("{i}", 1)[0] for row in self.family.weights if "{i}" in row.theirs}
        containers = "|".join(re.escape(front.removeprefix(self.base)) for front in sorted(fronts))
        return re.compile(rf"{re.escape(self.prefix)}(?:{containers})([0-9]+)\.")


def find_names(family: Family[Decoder], stored: Iterable[str]) -> TableNames:
    """The names of a checkpoint: its prefix is the one under which most of the table is found.

    Args:
        family: whose table it is.
        stored: all names of the checkpoint.
    """
    endings = {_pattern(row.theirs) for row in family.weights if row.ours != "head/weight"}
    base = base_prefix(family)
    cores = {ending.removeprefix(base) for ending in endings}
    kinds: dict[str, set[str]] = {}
    sizes: Counter[str] = Counter()
    for name in stored:
        found = _split(name, cores)
        if found is not None:
            prefix, core = found
            kinds.setdefault(prefix, set()).add(core)
            sizes[prefix] += 1

    # Parts of a vision tower or of a module for further tokens have names of the table too, but fewer.
    def fit(prefix: str) -> tuple[int, int, bool, int]:
        return len(kinds[prefix]), sizes[prefix], prefix == base, -len(prefix)

    return TableNames(family, max(kinds, key=fit, default=base))


def base_prefix(family: Family[Decoder]) -> str:
    """What all names of a family's table but the head's begin with, such as ``"model."``."""
    return family.embedding_name.split(".", 1)[0] + "."


def _split(name: str, cores: Collection[str]) -> tuple[str, str] | None:
    """A name's prefix and the pattern of its rest, the longest that the table has."""
    start = 0
    while True:
        core = _NUMBER.sub("#", "." + name[start:])[1:]
        if core in cores:
            return name[:start], core
        start = name.find(".", start) + 1
        if start == 0:
            return None


def _pattern(theirs: str) -> str:
    return _PLACEHOLDER.sub("#", theirs)
