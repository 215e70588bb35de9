"""`jaxmodels train`: trains a recipe, and writes the model."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from jaxmodels.cli.common import DType, OnMesh, mesh_of, tell


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="A recipe file, or the name of one that --list prints."),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Argument(metavar="OUTPUT_DIR", help="Made if need be; a run that it holds is gone on with."),
    ] = None,
    list_recipes: Annotated[
        bool, typer.Option("--list", help="Print the names of the recipes that come with the package.")
    ] = False,
    dtype: Annotated[DType, typer.Option(help="Of the model written at the end.")] = DType.BFLOAT16,
    mesh: OnMesh = None,
) -> None:
    """Train a model of texts or of images, a draft head, a policy of depth, or go on with an interrupted run.

    OUTPUT_DIR holds checkpoints, metrics and, of models of texts, result.json; the trained model goes to
    OUTPUT_DIR/model as a Hugging Face directory. Stopped at any time, the same command goes on from the last
    checkpoint, and a model of texts on another --mesh, too. On several hosts, start it on each, see
    docs/many_hosts.md.
    """
    from jaxmodels.training import recipe as recipes

    kinds = _other_kinds()
    if list_recipes:
        names = (name for kind in kinds for name in kind.recipes.names())
        print("\n".join(sorted((*recipes.list_recipes(), *names))))
        return
    if recipe is None or output_dir is None:
        raise ValueError("train needs RECIPE and OUTPUT_DIR; --list prints the recipes of the package")
    destination = output_dir / "model"
    for kind in kinds:
        if kind.recipes.recognises(recipe):
            if mesh is not None:
                raise ValueError(
                    f"--mesh: {recipe!r} trains no model of texts, which alone are trained on one"
                )
            loaded = kind.recipes.load(recipe)
            kind.export(kind.train(loaded, output_dir), destination, dtype.value)
            tell(f"the model is in {destination}: {kind.use.format(destination, recipe=loaded)}")
            return
    chosen = recipes.load_recipe(recipe)
    from jaxmodels.training import loop
    from jaxmodels.training.export import DEPTH_FOLDER, export_run

    loop.train(chosen, output_dir, mesh=mesh_of(mesh))
    export_run(output_dir, destination, dtype.value)
    use = f"jaxmodels generate --model {destination}"
    if (destination / DEPTH_FOLDER).is_dir():
        use = f"decode it with AdaptiveDepth(depth='{destination / DEPTH_FOLDER}')"
    tell(f"the model is in {destination}: {use}")


class _Kind(NamedTuple):
    """One kind of what is trained: its recipes, what trains one into a directory, what writes the model of
    the run to another, in a dtype, and how it is used from there."""

    recipes: Any
    train: Callable[..., Any]
    export: Callable[..., Any]
    use: str = "jaxmodels generate --model {0} --class 0 --grid 0.png"


def _other_kinds() -> tuple[_Kind, ...]:
    """All kinds but models of texts."""
    from jaxmodels.training.denoisers.export import export_denoiser
    from jaxmodels.training.denoisers.recipe import DENOISER_RECIPES
    from jaxmodels.training.denoisers.run import train_denoiser
    from jaxmodels.training.depth.export import export_depth
    from jaxmodels.training.depth.recipe import DEPTH_RECIPES
    from jaxmodels.training.depth.run import train_depth
    from jaxmodels.training.draft_heads.export import export_draft_head
    from jaxmodels.training.draft_heads.recipe import DRAFT_HEAD_RECIPES
    from jaxmodels.training.draft_heads.run import train_draft_head
    from jaxmodels.training.flows.export import export_flow
    from jaxmodels.training.flows.recipe import FLOW_RECIPES
    from jaxmodels.training.flows.run import train_flow
    from jaxmodels.training.images.export import export_images
    from jaxmodels.training.images.recipe import IMAGE_RECIPES
    from jaxmodels.training.images.run import train_images
    from jaxmodels.training.next_scale.export import export_next_scale
    from jaxmodels.training.next_scale.recipe import NEXT_SCALE_RECIPES
    from jaxmodels.training.next_scale.run import train_next_scale

    # In the order in which a file is asked for what marks a kind.
    return (
        _Kind(NEXT_SCALE_RECIPES, train_next_scale, export_next_scale),
        _Kind(DENOISER_RECIPES, train_denoiser, export_denoiser),
        _Kind(FLOW_RECIPES, train_flow, export_flow),
        _Kind(IMAGE_RECIPES, train_images, export_images),
        _Kind(DEPTH_RECIPES, train_depth, export_depth, "AdaptiveDepth(depth='{0}')"),
        _Kind(
            DRAFT_HEAD_RECIPES, train_draft_head, export_draft_head, "jaxmodels generate {recipe.option} {0}"
        ),
    )
