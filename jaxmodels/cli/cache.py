"""`jaxmodels cache`: where compiled programs are kept, how many there are, and how to be rid of them."""

from dataclasses import asdict
from typing import Annotated

import typer

from jaxmodels.artefacts import compilation_cache
from jaxmodels.cli.common import AsJson, print_json
from jaxmodels.cli.summaries import scaled


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove the programs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show or clear the cache of compiled programs.

    Every command keeps what XLA compiled for it, so that a later call with the same model and sizes starts
    several times faster. Beyond the bound the longest unused programs go. JAX_COMPILATION_CACHE_DIR names
    another place, JAX_COMPILATION_CACHE_MAX_SIZE another bound in bytes (-1: none), and
    JAX_ENABLE_COMPILATION_CACHE=false turns it off.
    """
    place = compilation_cache.place()
    held = compilation_cache.clear(place) if clear else compilation_cache.contents(place)
    bound = compilation_cache.bound()
    if as_json:
        print_json({"place": str(place), **asdict(held), "bound": bound, "cleared": clear})
        return
    size = f"{held.programs} programs, {scaled(held.size, 'B')}"
    if clear:
        print(f"removed {size} from {place}")
    else:
        print(f"{place}: {size}, " + (f"at most {scaled(bound, 'B')}" if bound >= 0 else "without a bound"))
