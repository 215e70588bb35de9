"""`python -m jaxmodels.cli`: the `jaxmodels` command."""

from jaxmodels.cli import main

main()
