"""Drafters: what drafts the tokens that `Speculative` verifies."""

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
    "TreeDrafter",
    "Verdict",
]
