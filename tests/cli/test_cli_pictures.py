"""`jaxmodels generate` with an image model writes pictures; what it cannot draw is told."""

import numpy as np
import pytest
from diffusion_models import dit_model
from masked_image_models import image_model
from PIL import Image

import jaxmodels as jm
from jaxmodels.cli.pictures import Pictures


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "model"
    jm.save(image_model(), path)
    return path


@pytest.mark.sweep
def test_a_grid_holds_the_images_and_a_strip_their_steps(run, directory, tmp_path):
    """Of 8 x 8 pixels, each of which is drawn as 12 x 12, with two between images."""
    files = {"--grid": tmp_path / "grid.png", "--strip": tmp_path / "strip.png"}
    options = [part for option in files.items() for part in option]
    asked = ["--class", 3, "--class", 5, "--images", 3, "--steps", 4, "--seed", 2]
    result = run("generate", "--model", directory, *asked, *options)
    assert "6 images in 4 steps" in result.stderr and result.stdout == ""
    model = jm.load(directory)
    stages = list(model.stream([3, 3, 3, 5, 5, 5], steps=4, seed=2))
    grid, strip = (np.asarray(Image.open(file)) for file in files.values())
    side, step = 8 * 12, 10 * 12
    assert grid.shape == (step + side, 2 * step + side)
    assert strip.shape == (5 * step + side, 4 * step + side)

    def at(picture, row, column):
        return picture[row * step : row * step + side : 12, column * step : column * step + side : 12] / 255

    for row, column in np.ndindex(2, 3):
        np.testing.assert_allclose(
            at(grid, row, column), stages[-1].pixels[3 * row + column, ..., 0], atol=1 / 255
        )
    for row, column in np.ndindex(6, 5):
        np.testing.assert_allclose(at(strip, row, column), stages[column].pixels[row, ..., 0], atol=1 / 255)
    assert (grid[side:step] == 255).all()


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    path = tmp_path_factory.mktemp("diffusion") / "model"
    jm.save(dit_model(), path)
    return path


@pytest.mark.sweep
def test_a_diffusion_model_goes_by_its_options(run, diffusion, tmp_path):
    grid, strip = tmp_path / "grid.png", tmp_path / "strip.png"
    asked = ["--class", 3, "--class", 5, "--steps", 3, "--guidance", 2, "--seed", 4]
    own = ["--sampler", "dpm++", "--cache", "fora"]
    result = run("generate", "--model", diffusion, *asked, *own, "--grid", grid)
    assert "2 images in 3 steps" in result.stderr
    wanted = jm.load(diffusion).generate([3, 5], 3, guidance=2, seed=4, sampler="dpm++", cache="fora")
    drawn = np.asarray(Image.open(grid))[: 16 * 6 : 6, : 16 * 6 : 6] / 255
    np.testing.assert_allclose(drawn, wanted.pixels[0], atol=1 / 255)
    run("generate", "--model", diffusion, *asked, "--strip", strip)
    assert np.asarray(Image.open(strip)).shape == (18 * 6 + 16 * 6, 3 * 18 * 6 + 16 * 6, 3)


@pytest.mark.sweep
def test_heights_and_widths_differ(run, tmp_path):
    asked = ["--class", 3, "--steps", 1, "--size", "16x24", "--grid", tmp_path / "a.png"]
    run("generate", "--model", "tiny-ddt", *asked)
    assert np.asarray(Image.open(tmp_path / "a.png")).shape == (16 * 6, 24 * 6)


@pytest.mark.parametrize("option", ["grid", "strip"])
def test_steps_are_counted_of_all_calls(diffusion, option, tmp_path):
    """Heun's method calls the model twice in a step."""
    told = []

    def count(done, total):
        told.append((done, total))

    pictures = Pictures(classes=[3], sampler="heun", **{option: tmp_path / "a.png"})
    pictures.draw(jm.load(diffusion), steps=3, seed=0, progress=count)
    assert told[-1][0] == 5
    assert all(total in (5, None) for _, total in told)


def test_the_bundled_model_draws_with_the_cache_that_it_is_calibrated_for(run, tmp_path):
    asked = ["--class", 3, "--steps", 12, "--sampler", "dpm++", "--cache", "magcache"]
    result = run("generate", "--model", "tiny-dit", *asked, "--grid", tmp_path / "a.png")
    assert "1 images in 12 steps" in result.stderr
    made = jm.load("tiny-dit").generate([3], 12, sampler="dpm++", cache="magcache")
    assert 0 in made.blocks and made.blocks[0] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "a cat"], "the model draws classes, 0 to 9, and takes no prompt, got ['a cat']"),
        (
            ["--class", 3, "--sampler", "dpm"],
            "sampler 'dpm' is not known; the samplers are: ddim, ddpm, dpm++",
        ),
        (
            ["--class", 3, "--cache", "magcache"],
            "cache 'magcache' goes by a calibration, and the model has none",
        ),
        (["--class", 3, "--size", 18], "size=18 x 18: height and width must be multiples of 4"),
        (["--class", 3, "--size", "16x18"], "size=16 x 18: height and width must be multiples of 4"),
        (["--class", 3, "--size", "16x"], "--size must be a number of pixels, or height x width"),
        (["--class", 3, "--negative", "dull"], "takes no prompt, got 'dull'"),
        (["--class", 3, "--guidance", "nan"], "guidance must be a finite number"),
    ],
)
def test_what_a_diffusion_model_does_not_have_is_told(run, diffusion, arguments, message, tmp_path):
    told = run("generate", "--model", diffusion, *arguments, "--grid", tmp_path / "a.png", code=2).stderr
    assert message in told and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--class", 10, "--grid", "a.png"], "class_ids[0] is 10: the model has the classes 0 to 9"),
        (["--class", 1, "--grid", "a.png", "--size", 64], "size=64: the model makes images of 8 x 8 pixels"),
        (["--class", 1, "--grid", "a.png", "--steps", 17], "steps must be a whole number >= 1 and <= 16"),
        (["--class", 1], "--class needs --grid or --strip"),
        (["--grid", "a.png"], "give --class or --prompt, and --grid or --strip"),
        (["--prompt", "a cat"], "--prompt needs --grid or --strip"),
        (["--prompt", "a cat", "--grid", "a.png"], "the model draws classes, 0 to 9, and takes no prompt"),
        (["a cat", "--grid", "a.png"], "takes no prompt, got ['a cat']"),
        (
            ["--class", 1, "--grid", "a.png", "--sampler", "ddim"],
            "--sampler is no option of a MaskGITPipeline",
        ),
        (["--class", 1, "--grid", "a.text"], "'a.text' does not end as a picture's name does; use .png"),
        (["--class", 1, "--grid", "a.png", "a text"], "--class and --prompt are of different models"),
        (["--class", 1, "--grid", "a.png", "--top-k", 3], "--top-k is of language models"),
        (["--class", 1, "--grid", "a.png", "--threshold", 0.5], "--threshold is of language models"),
        (["--class", 1, "--grid", "a.png", "--json"], "--json is of language models"),
        (["--class", 1, "--grid", "a.png", "--images", 0], "--images must be at least 1, got 0"),
        (["a text"], "is an image model: say what to draw with --class and --grid or --strip"),
    ],
)
def test_what_cannot_be_drawn_is_told(run, directory, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in run("generate", "--model", directory, *arguments, code=2).stderr
    assert not list(tmp_path.iterdir())


def test_a_language_model_draws_nothing(run, model_dir):
    result = run("generate", "--model", model_dir, "--class", 1, "--grid", "a.png", code=2)
    assert "is a language model: --class, --grid and --strip are of image models" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["fill-mask", "{images}", "a [MASK]"],
        ["generate", "--model", "{texts}", "--strategy", "speculative", "--draft", "{images}", "a text"],
    ],
)
def test_where_a_language_model_is_needed_it_is_told(run, directory, model_dir, arguments):
    names = {"images": directory, "texts": model_dir}
    told = run(*(part.format(**names) for part in arguments), code=2).stderr
    assert f"{str(directory)!r} is an image model, and a language model is needed here" in told
