"""Drafters: what drafts the tokens that `Speculative` verifies."""

from typing import TYPE_CHECKING

from jaxmodels.on_first_use import lazy_names

if TYPE_CHECKING:
    from jaxmodels.decoding.drafters.dflash import DFlashDrafter
    from jaxmodels.decoding.drafters.drafter import Drafter, DraftsOnCache, Proposal, Round, Verdict
    from jaxmodels.decoding.drafters.feature_drafter import FeatureDrafter
    from jaxmodels.decoding.drafters.feature_tree_drafter import FeatureTreeDrafter
    from jaxmodels.decoding.drafters.first_layers import FirstLayers
    from jaxmodels.decoding.drafters.last_verdict import LastVerdict
    from jaxmodels.decoding.drafters.lookahead import Lookahead
    from jaxmodels.decoding.drafters.medusa_drafter import MedusaDrafter
    from jaxmodels.decoding.drafters.medusa_tree_drafter import MedusaTreeDrafter
    from jaxmodels.decoding.drafters.mirror import MirrorDrafter
    from jaxmodels.decoding.drafters.model_drafter import Draft, ModelDrafter
    from jaxmodels.decoding.drafters.mtp import MTP
    from jaxmodels.decoding.drafters.multi_block import MultiBlock
    from jaxmodels.decoding.drafters.other_tokenizer import OtherTokenizer
    from jaxmodels.decoding.drafters.paths import PathsDrafter
    from jaxmodels.decoding.drafters.peagle import PEagleDrafter
    from jaxmodels.decoding.drafters.prompt_lookup import PromptLookup
    from jaxmodels.decoding.drafters.pruned_prompt import PrunedPromptDrafter
    from jaxmodels.decoding.drafters.reencoded import ReencodedDrafter
    from jaxmodels.decoding.drafters.suffix import SuffixDecoding
    from jaxmodels.decoding.drafters.suffix_tree import SuffixTree
    from jaxmodels.decoding.drafters.task_drafts import MergedDrafts, RoutedDrafts
    from jaxmodels.decoding.drafters.tree_drafter import TreeDrafter

__all__ = [
    "MTP",
    "DFlashDrafter",
    "Draft",
    "Drafter",
    "DraftsOnCache",
    "FeatureDrafter",
    "FeatureTreeDrafter",
    "FirstLayers",
    "LastVerdict",
    "Lookahead",
    "MedusaDrafter",
    "MedusaTreeDrafter",
    "MergedDrafts",
    "MirrorDrafter",
    "ModelDrafter",
    "MultiBlock",
    "OtherTokenizer",
    "PEagleDrafter",
    "PathsDrafter",
    "PromptLookup",
    "Proposal",
    "PrunedPromptDrafter",
    "ReencodedDrafter",
    "Round",
    "RoutedDrafts",
    "SuffixDecoding",
    "SuffixTree",
    "TreeDrafter",
    "Verdict",
]

_HOMES = {
    "dflash": ("DFlashDrafter",),
    "drafter": ("Drafter", "DraftsOnCache", "Proposal", "Round", "Verdict"),
    "feature_drafter": ("FeatureDrafter",),
    "feature_tree_drafter": ("FeatureTreeDrafter",),
    "first_layers": ("FirstLayers",),
    "last_verdict": ("LastVerdict",),
    "lookahead": ("Lookahead",),
    "medusa_drafter": ("MedusaDrafter",),
    "medusa_tree_drafter": ("MedusaTreeDrafter",),
    "mirror": ("MirrorDrafter",),
    "model_drafter": ("Draft", "ModelDrafter"),
    "mtp": ("MTP",),
    "multi_block": ("MultiBlock",),
    "other_tokenizer": ("OtherTokenizer",),
    "paths": ("PathsDrafter",),
    "peagle": ("PEagleDrafter",),
    "prompt_lookup": ("PromptLookup",),
    "pruned_prompt": ("PrunedPromptDrafter",),
    "reencoded": ("ReencodedDrafter",),
    "suffix": ("SuffixDecoding",),
    "suffix_tree": ("SuffixTree",),
    "task_drafts": ("MergedDrafts", "RoutedDrafts"),
    "tree_drafter": ("TreeDrafter",),
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
