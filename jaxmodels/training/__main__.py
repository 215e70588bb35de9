"""`python -m jaxmodels.training RECIPE OUTPUT_DIR`: runs or resumes one recipe."""

import argparse

from jaxmodels.training.loop import train
from jaxmodels.training.recipe import list_recipes, load_recipe


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m jaxmodels.training", description=__doc__)
    parser.add_argument("recipe", help=f"a recipe file, or one of {', '.join(list_recipes())}")
    parser.add_argument("output_dir", help="created, or resumed from its last checkpoint")
    arguments = parser.parse_args()
    train(load_recipe(arguments.recipe), arguments.output_dir)


if __name__ == "__main__":
    main()
