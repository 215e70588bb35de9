"""`jaxmodels tpu launch`: files that start a command on a slice."""

from pathlib import Path
from typing import Annotated

import typer

from jaxmodels.cli.common import tell

# Commands whose work is spread by --mesh.
SPREAD = ("generate", "train")


def launch(
    tool: Annotated[
        str,
        typer.Argument(
            metavar="TOOL", help="single-host, jax-distributed, gcloud, xpk (Kubernetes), skypilot or ray."
        ),
    ],
    command: Annotated[
        list[str],
        typer.Argument(metavar="-- COMMAND...", help="What `jaxmodels` is to do there, with its options."),
    ],
    slice_name: Annotated[str, typer.Option("--slice", help="Such as v5e-8.")],
    name: Annotated[str, typer.Option(help="Of the machine, workload or task.")] = "jaxmodels",
    output: Annotated[
        Path | None, typer.Option(help="Write the files to this directory; by default they are printed.")
    ] = None,
) -> None:
    """Write what a tool needs to start a jaxmodels command on every host of a TPU slice.

    Nothing is rented or started: look at the files, then start them as they say.
    """
    from jaxmodels.tpu_configs.launch import Job, launch_files
    from jaxmodels.tpu_configs.slices import find_slice

    on = find_slice(slice_name)
    files = launch_files(tool, Job(slice=on, command=tuple(command), name=name))
    if on.devices > 1 and command[0] in SPREAD and not any(it.startswith("--mesh") for it in command):
        tell(f"the command has no --mesh, so that one of the {on.devices} devices of {on.name} does the work")
    for file, text in files.items():
        if output is None:
            print(text, end="")
            continue
        output.mkdir(parents=True, exist_ok=True)
        (output / file).write_text(text, encoding="utf-8")
        print(output / file)
