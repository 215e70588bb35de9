"""A whole training run of a policy of depth in one directory, resumable at any time.

recipe.json          what is trained; a second call must bring the same
policy/              checkpoints and metrics.jsonl
result.json          the model and the model by the policy on held-out text, see `Comparison`
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import jax
from jaxtyping import Array
from rich.console import Console

import jaxmodels.io
from jaxmodels.checkpoints.atomic import replace_file
from jaxmodels.checkpoints.hub import resolve
from jaxmodels.decoding.adaptive_depth import AdaptiveDepth
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.models.decoder import Decoder
from jaxmodels.training.data import cut_windows
from jaxmodels.training.depth.evaluate import compare
from jaxmodels.training.depth.objective import Frozen
from jaxmodels.training.depth.recipe import DEPTH_RECIPES, DepthRecipe
from jaxmodels.training.fitting import Fitting, claim
from jaxmodels.training.run_directory import only_trainer
from jaxmodels.training.tokenizer import load_tokenizer
from jaxmodels.training.train import TrainState


@dataclass(frozen=True, kw_only=True)
class DepthRun:
    """The f32 parameters of a trained policy, the model that it is for, and the recipe it was trained by."""

    recipe: DepthRecipe
    model: Decoder
    params: Params


@dataclass(frozen=True)
class _Trained:
    """What is fitted."""

    tree: ParamTree

    def spec(self) -> ParamTree:
        return self.tree


def train_depth(recipe: DepthRecipe, output_dir: str | Path, *, console: Console | None = None) -> DepthRun:
    """Trains, or goes on from the last checkpoint in `output_dir`.

    Raises:
        ValueError: `output_dir` belongs to another recipe, another process trains in it, a file cannot be
            used, or the policy is not for the target.
        CheckpointError: the target cannot be read.
        FileNotFoundError: a pattern matches no file.
    """
    console = Console(stderr=True) if console is None else console
    output = Path(output_dir)
    target = jaxmodels.io.as_language_model(jaxmodels.io.load(recipe.target, "float32"), recipe.target)
    frozen = Frozen(target.decoder, target.decoder_params)
    training, tree = recipe.depth_policy, recipe.depth_policy.spec(frozen.model)
    tokenizer = load_tokenizer(resolve(recipe.target))
    with only_trainer(output):
        claim(output, DEPTH_RECIPES, recipe)
        windows, held_out = (
            cut_windows(files, recipe.sequence_length, frozen.model.vocab_size, tokenizer)
            for files in (recipe.train_files, recipe.held_out_files)
        )

        def loss(params: Params, state: TrainState, batch: object, key: Array) -> tuple[Array, Array]:
            return training.loss(frozen, params, batch, key)

        fitting = Fitting(
            output=output / "policy",
            seed=recipe.seed,
            log_every=recipe.log_every,
            checkpoint_every=recipe.checkpoint_every,
            console=console,
        )
        params = fitting.run(
            _Trained(tree), recipe.fit, training.examples(frozen, windows, recipe.seed), loss
        )
        policy = training.policy(frozen.model, params)
        found = compare(
            frozen.model,
            frozen.params,
            policy,
            held_out[: recipe.evaluation_windows],
            prompt=recipe.prompt,
            prompt_depth=AdaptiveDepth(depth=policy).prompt_policy,
        )
        replace_file(output / "result.json", json.dumps(dataclasses.asdict(found), indent=2) + "\n")
        console.print(
            f"held out: {found.policy_accuracy:.4f} of the tokens are foretold by the policy in "
            f"{found.layers:.2f} blocks, {found.accuracy:.4f} by the model; they agree in "
            f"{found.agreement:.4f}"
        )
    return DepthRun(recipe=recipe, model=frozen.model, params=jax.tree.map(jax.numpy.asarray, params))
