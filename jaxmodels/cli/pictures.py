"""The options of `jaxmodels generate` that belong to image models, and the pictures that they draw."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np

    from jaxmodels import ImageModel

# Between the images of a picture, and how often each pixel is repeated, at least.
_MARGIN, _SMALLEST = 2, 96
_PAPER = 1.0
# Parameters of the command, beside those of `Pictures`, that pictures go by.
_SHARED = frozenset({"allow_pickle", "dtype", "model", "quiet", "revision", "seed", "steps", "verify"})


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The options as given.

    Raises:
        ValueError: a number below 1, or a class without a file that its images go to.
    """

    classes: Annotated[
        list[int] | None,
        typer.Option("--class", metavar="N", help="Of image models: draw this class. Repeatable."),
    ] = None
    per_class: Annotated[
        int, typer.Option("--images", metavar="N", help="Of image models: images of each class.")
    ] = 1
    size: Annotated[
        int | None, typer.Option(help="Of image models: height and width in pixels, by default the model's.")
    ] = None
    grid: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the images here, a row for each class.")
    ] = None
    strip: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write the images behind each step here, a row for each image."),
    ] = None

    def __post_init__(self) -> None:
        if self.per_class < 1:
            raise ValueError(f"--images must be at least 1, got {self.per_class}")
        if self.classes and self.grid is self.strip is None:
            raise ValueError("--class needs --grid or --strip, a file that the images are written to")

    @property
    def are_asked_for(self) -> bool:
        """Whether an option of image models was given."""
        return bool(self.classes or self.grid or self.strip or self.size or self.per_class != 1)

    def draw(self, model: "ImageModel", *, steps: int | None, seed: int) -> str:
        """Writes the files, and gives the timing line's beginning.

        Raises:
            ValueError: no class or file is named, the model has no such class or size, or a file's name does
                not end as a picture's.
            ImportError: pillow is not installed.
        """
        if not self.classes or (self.grid is None and self.strip is None):
            raise ValueError("an image model draws classes: give --class and --grid or --strip")
        for file in (self.grid, self.strip):
            if file is not None:
                _check_picture(file)
        classes = [one for one in self.classes for _ in range(self.per_class)]
        options: dict[str, Any] = {"size": self.size, "seed": seed}
        options |= {} if steps is None else {"steps": steps}
        behind = [model.generate(classes, **options)]
        if self.strip is not None:
            behind = list(model.stream(classes, **options))
            _write(self.strip, [[made.pixels[row] for made in behind] for row in range(len(classes))])
        last = behind[-1]
        if self.grid is not None:
            cut = range(0, len(classes), self.per_class)
            _write(self.grid, [list(last.pixels[start : start + self.per_class]) for start in cut])
        rate = len(classes) / last.seconds
        return f"{len(classes)} images in {last.calls} steps, {last.seconds:.2f} s: {rate:.1f} images/s"


def check_given(context: typer.Context) -> None:
    """Raises ValueError, naming it, where an option of texts was given beside those of pictures."""
    own = _SHARED | {field.name for field in fields(Pictures)}
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and name not in own:
            shown = parameter.opts[0] if parameter.opts[0].startswith("-") else name.upper()
            raise ValueError(f"{shown} is of texts, and an image model draws classes; leave it out")


def _check_picture(file: Path) -> None:
    """Raises, before anything is computed, where a picture could not be written."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "pictures are written with pillow, which is not installed; install jaxmodels[pictures]"
        ) from error
    if file.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"{str(file)!r} does not end as a picture's name does; use .png")


def _write(file: Path, rows: "list[list[np.ndarray]]") -> None:
    """One picture of rows of images [H, W, C] with pixels from 0 to 1."""
    import numpy as np
    from PIL import Image

    height, _, channels = rows[0][0].shape
    factor = -(-_SMALLEST // height)

    def joined(parts: "list[np.ndarray]", axis: int) -> "np.ndarray":
        shape = list(parts[0].shape)
        shape[axis] = _MARGIN * factor
        between = np.full(shape, _PAPER)
        return np.concatenate([part for one in parts for part in (one, between)][:-1], axis=axis)

    enlarged = [[image.repeat(factor, 0).repeat(factor, 1) for image in row] for row in rows]
    picture = np.rint(joined([joined(row, 1) for row in enlarged], 0) * 255).astype(np.uint8)
    Image.fromarray(picture[..., 0] if channels == 1 else picture).save(file)
