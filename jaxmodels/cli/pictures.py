"""The options of `jaxmodels generate` that belong to image models, and the pictures that they draw."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from jaxmodels import ImageModel

# Parameters of the command, beside those of `Pictures`, that pictures go by.
_SHARED = frozenset(
    {"allow_pickle", "dtype", "mesh", "model", "prompt", "quantize", "quiet", "revision", "seed", "steps"}
    | {"verify"}
)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The options as given.

    Raises:
        ValueError: a number below 1, a size that is none, or a class without a file that its images go to.
    """

    classes: Annotated[
        list[int] | None,
        typer.Option("--class", metavar="N", help="Of image models: draw this class. Repeatable."),
    ] = None
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="TEXT", help="Of image models: draw this. Repeatable."),
    ] = None
    per_class: Annotated[
        int, typer.Option("--images", metavar="N", help="Of image models: images of each class or prompt.")
    ] = 1
    size: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW",
            help="Of image models: height and width in pixels, 512 or 512x768; by default the model's.",
        ),
    ] = None
    grid: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write the images here, a row for each class or prompt."),
    ] = None
    strip: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write the images behind each step here, a row for each image."),
    ] = None
    sampler: Annotated[
        str | None,
        typer.Option(help="Of diffusion models: what takes the steps, such as ddim, dpm++, unipc or euler."),
    ] = None
    guidance: Annotated[
        float | None, typer.Option(help="Of image models: how strongly to keep to the class or prompt.")
    ] = None
    negative: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Of diffusion models: the prompt to lead away from.")
    ] = None
    cache: Annotated[
        str | None,
        typer.Option(help="Of diffusion models: what later steps go by, such as magcache or taylorseer."),
    ] = None

    def __post_init__(self) -> None:
        if self.per_class < 1:
            raise ValueError(f"--images must be at least 1, got {self.per_class}")
        _sides(self.size)
        if self.classes and self.prompts:
            raise ValueError("--class and --prompt are of different models; give one of them")
        for name, asked in (("--class", self.classes), ("--prompt", self.prompts)):
            if asked and self.grid is self.strip is None:
                raise ValueError(f"{name} needs --grid or --strip, a file that the images are written to")

    @property
    def are_asked_for(self) -> bool:
        """Whether an option of image models was given."""
        given = (getattr(self, field.name) != field.default for field in fields(self))
        return any(given)

    def draw(
        self,
        model: "ImageModel",
        *,
        steps: int | None,
        seed: int,
        progress: Callable[[int, int | None], None] | None,
    ) -> str:
        """Writes the files, and gives the timing line's beginning.

        Raises:
            ValueError: nothing to draw or no file is named, the model has no such class, size or option, or a
                file's name does not end as a picture's.
        """
        from jaxmodels.image_models.pictures import check_picture, write_picture

        each: list[Any] = self.classes or self.prompts or []
        if not each or (self.grid is None and self.strip is None):
            raise ValueError(
                "an image model draws classes or prompts: give --class or --prompt, and --grid or --strip"
            )
        for file in (self.grid, self.strip):
            if file is not None:
                check_picture(file)
        asked = [one for one in each for _ in range(self.per_class)]
        options: dict[str, Any] = {"size": _sides(self.size), "seed": seed, **self._own_options(model)}
        options |= {} if steps is None else {"steps": steps}
        if self.strip is None:
            last = model.generate(asked, **options, progress=progress)
        else:
            behind = []
            for made in model.stream(asked, **options):
                behind.append(made)
                if progress is not None:  # of how many, a stream does not say: samplers call more than once
                    progress(made.calls, None)
            write_picture(self.strip, [[made.pixels[row] for made in behind] for row in range(len(asked))])
            last = behind[-1]
        if self.grid is not None:
            cut = range(0, len(asked), self.per_class)
            write_picture(self.grid, [list(last.pixels[start : start + self.per_class]) for start in cut])
        rate = len(asked) / last.seconds
        return f"{len(asked)} images in {last.calls} steps, {last.seconds:.2f} s: {rate:.1f} images/s"

    def _own_options(self, model: "ImageModel") -> dict[str, Any]:
        """The options given that some image models have; raises ValueError where this one lacks one."""
        options = {name: getattr(self, name) for name in ("sampler", "guidance", "negative", "cache")}
        given = {name: value for name, value in options.items() if value is not None}
        for name in given:
            if name not in model.options:
                raise ValueError(f"--{name} is no option of a {model.pipeline}; leave it out")
        return given


def _sides(size: str | None) -> int | tuple[int, int] | None:
    """The number, or height and width, that --size gives.

    Raises:
        ValueError: it is neither.
    """
    if size is None:
        return None
    found = re.fullmatch(r"(\d{1,9})(?:x(\d{1,9}))?", size, re.ASCII)
    if found is None:
        raise ValueError(f"--size must be a number of pixels, or height x width as in 512x768, got {size!r}")
    height, width = found.groups()
    return int(height) if width is None else (int(height), int(width))


@contextmanager
def steps_shown(quiet: bool) -> Iterator[Callable[[int, int | None], None] | None]:
    """A bar on standard error that counts steps, of how many if that is known. None where it is `quiet` or
    where nobody looks."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("steps", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def check_given(context: typer.Context) -> None:
    """Raises ValueError, naming it, where an option of texts was given beside those of pictures."""
    own = _SHARED | {field.name for field in fields(Pictures)}
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and name not in own:
            shown = parameter.opts[0] if parameter.opts[0].startswith("-") else name.upper()
            raise ValueError(f"{shown} is of language models, and pictures are asked for; leave it out")
