"""Decoding: loops over `peek` and `commit` that know no family, driven by small policies."""

from typing import TYPE_CHECKING

from jaxmodels.on_first_use import lazy_names

if TYPE_CHECKING:
    from jaxmodels.decoding import depth, masked, processors, thinking
    from jaxmodels.decoding.acceptance import (
        Acceptance,
        BlockVerification,
        MultiPathVerification,
        SampledChild,
        TokenVerification,
        TraversalVerification,
        TypicalAcceptance,
    )
    from jaxmodels.decoding.adaptive_depth import AdaptiveDepth
    from jaxmodels.decoding.autoregressive import Autoregressive
    from jaxmodels.decoding.choosing import Arbitrage, BestOf, FirstFinish, LinearRouter, MostProbable, Regret
    from jaxmodels.decoding.depth import Confidence, MaxProbability
    from jaxmodels.decoding.drafters import (
        MTP,
        DFlashDrafter,
        Draft,
        FeatureDrafter,
        FeatureTreeDrafter,
        FirstLayers,
        LastVerdict,
        Lookahead,
        MedusaDrafter,
        MedusaTreeDrafter,
        MergedDrafts,
        MirrorDrafter,
        ModelDrafter,
        MultiBlock,
        OtherTokenizer,
        PathsDrafter,
        PEagleDrafter,
        PromptLookup,
        PrunedPromptDrafter,
        ReencodedDrafter,
        RoutedDrafts,
        SuffixDecoding,
        SuffixTree,
        TreeDrafter,
    )
    from jaxmodels.decoding.early_exit import EarlyExit
    from jaxmodels.decoding.early_exit_jacobi import EarlyExitJacobi
    from jaxmodels.decoding.jacobi import Jacobi
    from jaxmodels.decoding.masked import MaskedDiffusion, Retranslation, StreamingDiffusion
    from jaxmodels.decoding.parallel_filling import ParallelFilling
    from jaxmodels.decoding.samplers import Greedy, Sample, Sampler
    from jaxmodels.decoding.scmoe import SCMoE
    from jaxmodels.decoding.speculative import Speculative
    from jaxmodels.decoding.speculative_exit import SpeculativeExit
    from jaxmodels.decoding.strategy import LogProbs, Strategy
    from jaxmodels.decoding.text_map import TextMap, map_texts
    from jaxmodels.decoding.thinking_exit import ThinkingExit
    from jaxmodels.decoding.vocabulary_map import VocabularyMap, map_vocabularies

__all__ = [
    "MTP",
    "Acceptance",
    "AdaptiveDepth",
    "Arbitrage",
    "Autoregressive",
    "BestOf",
    "BlockVerification",
    "Confidence",
    "DFlashDrafter",
    "Draft",
    "EarlyExit",
    "EarlyExitJacobi",
    "FeatureDrafter",
    "FeatureTreeDrafter",
    "FirstFinish",
    "FirstLayers",
    "Greedy",
    "Jacobi",
    "LastVerdict",
    "LinearRouter",
    "LogProbs",
    "Lookahead",
    "MaskedDiffusion",
    "MaxProbability",
    "MedusaDrafter",
    "MedusaTreeDrafter",
    "MergedDrafts",
    "MirrorDrafter",
    "ModelDrafter",
    "MostProbable",
    "MultiBlock",
    "MultiPathVerification",
    "OtherTokenizer",
    "PEagleDrafter",
    "ParallelFilling",
    "PathsDrafter",
    "PromptLookup",
    "PrunedPromptDrafter",
    "ReencodedDrafter",
    "Regret",
    "Retranslation",
    "RoutedDrafts",
    "SCMoE",
    "Sample",
    "SampledChild",
    "Sampler",
    "Speculative",
    "SpeculativeExit",
    "Strategy",
    "StreamingDiffusion",
    "SuffixDecoding",
    "SuffixTree",
    "TextMap",
    "ThinkingExit",
    "TokenVerification",
    "TraversalVerification",
    "TreeDrafter",
    "TypicalAcceptance",
    "VocabularyMap",
    "depth",
    "map_texts",
    "map_vocabularies",
    "masked",
    "processors",
    "thinking",
]

_HOMES = {
    "acceptance": (
        "Acceptance",
        "BlockVerification",
        "MultiPathVerification",
        "SampledChild",
        "TokenVerification",
        "TraversalVerification",
        "TypicalAcceptance",
    ),
    "adaptive_depth": ("AdaptiveDepth",),
    "autoregressive": ("Autoregressive",),
    "choosing": ("Arbitrage", "BestOf", "FirstFinish", "LinearRouter", "MostProbable", "Regret"),
    "depth": ("Confidence", "MaxProbability"),
    "drafters": (
        "MTP",
        "DFlashDrafter",
        "Draft",
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
        "PathsDrafter",
        "PEagleDrafter",
        "PromptLookup",
        "PrunedPromptDrafter",
        "ReencodedDrafter",
        "RoutedDrafts",
        "SuffixDecoding",
        "SuffixTree",
        "TreeDrafter",
    ),
    "early_exit": ("EarlyExit",),
    "early_exit_jacobi": ("EarlyExitJacobi",),
    "jacobi": ("Jacobi",),
    "masked": ("MaskedDiffusion", "Retranslation", "StreamingDiffusion"),
    "parallel_filling": ("ParallelFilling",),
    "samplers": ("Greedy", "Sample", "Sampler"),
    "scmoe": ("SCMoE",),
    "speculative": ("Speculative",),
    "speculative_exit": ("SpeculativeExit",),
    "strategy": ("LogProbs", "Strategy"),
    "text_map": ("TextMap", "map_texts"),
    "thinking_exit": ("ThinkingExit",),
    "vocabulary_map": ("VocabularyMap", "map_vocabularies"),
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES, packages=("depth", "masked", "processors", "thinking"))
