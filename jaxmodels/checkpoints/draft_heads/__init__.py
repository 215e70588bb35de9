"""Draft heads as they are published: directories with a configuration and tensors, both ways.

Each file beside the mechanism (`forms.py`, `io.py`, `layout.py`) is one published form, or what several
have in common.
"""

from typing import TYPE_CHECKING

from jaxmodels.on_first_use import lazy_names

if TYPE_CHECKING:
    from jaxmodels.checkpoints.draft_heads.acceptance import load_draft_length, save_draft_length
    from jaxmodels.checkpoints.draft_heads.io import is_drafter, load_drafter, save_drafter

__all__ = ["is_drafter", "load_draft_length", "load_drafter", "save_draft_length", "save_drafter"]

_HOMES = {
    "acceptance": ("load_draft_length", "save_draft_length"),
    "io": ("is_drafter", "load_drafter", "save_drafter"),
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
