"""`jaxmodels train`: trains a recipe, and writes the model."""

from pathlib import Path
from typing import Annotated

import typer

from jaxmodels.cli.common import DType, tell


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
) -> None:
    """Train a model of texts or of images, or go on with an interrupted run.

    OUTPUT_DIR holds checkpoints, metrics and, of models of texts, result.json; the trained model goes to
    OUTPUT_DIR/model as a Hugging Face directory. Stopped at any time, the same command goes on from the last
    checkpoint.
    """
    from jaxmodels.training import recipe as recipes
    from jaxmodels.training.denoisers.recipe import DENOISER_RECIPES
    from jaxmodels.training.flows.recipe import FLOW_RECIPES
    from jaxmodels.training.images.recipe import IMAGE_RECIPES
    from jaxmodels.training.next_scale.recipe import NEXT_SCALE_RECIPES

    of_images = (DENOISER_RECIPES, FLOW_RECIPES, IMAGE_RECIPES, NEXT_SCALE_RECIPES)
    if list_recipes:
        names = (name for kind in of_images for name in kind.names())
        print("\n".join(sorted((*recipes.list_recipes(), *names))))
        return
    if recipe is None or output_dir is None:
        raise ValueError("train needs RECIPE and OUTPUT_DIR; --list prints the recipes of the package")
    destination = output_dir / "model"
    if any(kind.recognises(recipe) for kind in of_images):
        _train_images(recipe, output_dir, destination, dtype.value)
        tell(
            f"the model is in {destination}: jaxmodels generate --model {destination} --class 0 --grid 0.png"
        )
        return
    chosen = recipes.load_recipe(recipe)
    from jaxmodels.training import loop
    from jaxmodels.training.export import export_run

    loop.train(chosen, output_dir)
    export_run(output_dir, destination, dtype.value)
    tell(f"the model is in {destination}: jaxmodels generate --model {destination}")


def _train_images(recipe: str, output_dir: Path, destination: Path, dtype: str) -> None:
    """Trains a model of images by a recipe of whichever kind, and writes it."""
    from jaxmodels.training.denoisers.recipe import DENOISER_RECIPES
    from jaxmodels.training.flows.recipe import FLOW_RECIPES
    from jaxmodels.training.images.recipe import IMAGE_RECIPES
    from jaxmodels.training.next_scale.recipe import NEXT_SCALE_RECIPES

    if NEXT_SCALE_RECIPES.recognises(recipe):
        from jaxmodels.training.next_scale.export import export_next_scale
        from jaxmodels.training.next_scale.run import train_next_scale

        export_next_scale(train_next_scale(NEXT_SCALE_RECIPES.load(recipe), output_dir), destination, dtype)
    elif DENOISER_RECIPES.recognises(recipe):
        from jaxmodels.training.denoisers.export import export_denoiser
        from jaxmodels.training.denoisers.run import train_denoiser

        export_denoiser(train_denoiser(DENOISER_RECIPES.load(recipe), output_dir), destination, dtype)
    elif FLOW_RECIPES.recognises(recipe):
        from jaxmodels.training.flows.export import export_flow
        from jaxmodels.training.flows.run import train_flow

        export_flow(train_flow(FLOW_RECIPES.load(recipe), output_dir), destination, dtype)
    else:
        from jaxmodels.training.images.export import export_images
        from jaxmodels.training.images.run import train_images

        export_images(train_images(IMAGE_RECIPES.load(recipe), output_dir), destination, dtype)
