"""What caches of denoising steps save on `tiny-dit` and `tiny-ddt`, and what they cost.

    python -m benchmarks.diffusion_caches

Drawn digits are judged by a classifier and a Fréchet distance, both trained on real digits, and compared
with the latents that the same noise leads to without a cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

import jaxmodels
from benchmarks.common import Result, Table, Target, argument_parser, in_turns, publish, seconds
from benchmarks.digit_judges import DigitJudge, digit_judge
from jaxmodels.decoding.diffusion.caches.cache import NoCache, StepCache
from jaxmodels.decoding.diffusion.caches.dbcache import DBCache
from jaxmodels.decoding.diffusion.caches.encoder_sharing import EncoderSharing, even_mask
from jaxmodels.decoding.diffusion.caches.first_block import FirstBlock
from jaxmodels.decoding.diffusion.caches.fora import FORA
from jaxmodels.decoding.diffusion.caches.harmonica import HarmoniCa
from jaxmodels.decoding.diffusion.caches.magcache import MagCache, resampled
from jaxmodels.decoding.diffusion.caches.pab import PAB
from jaxmodels.decoding.diffusion.caches.seacache import SeaCache
from jaxmodels.decoding.diffusion.caches.step_mask import PublishedMask
from jaxmodels.decoding.diffusion.caches.taylorseer import TaylorSeer
from jaxmodels.decoding.diffusion.caches.teacache import TeaCache
from jaxmodels.image_models.calibrating import with_shared_encoder
from jaxmodels.image_models.diffusion import DiffusionModel
from jaxmodels.training.images.digits import NUM_CLASSES

# Images drawn at once, and steps.
BATCH, STEPS = 100, 50
STATIC = ("FORA(3)", "TaylorSeer(3)", "MagCache", "cache-dit fast", "PAB(2)")
SHARED = "encoder shared, chosen"
COLUMNS = (
    *("cache", "blocks computed", "s, median", "times as fast"),
    *("difference", "recognised", "distance"),
)


@dataclass(frozen=True)
class Drawn:
    """What a cache did: its row in the table.

    Attributes:
        blocks: computed, a share of all.
        difference: the mean absolute difference of latents from those without a cache.
        recognised: the share of digits in which the classifier sees their class.
        distance: the Fréchet distance.
        median: seconds for a batch.
    """

    blocks: float
    difference: float
    recognised: float
    distance: float
    median: float


def caches_of_dit(model: DiffusionModel, steps: int) -> dict[str, StepCache]:
    """Those for any denoiser, static ones first, by the names of the table."""
    found: dict[str, StepCache] = {
        "none": NoCache(),
        "FORA(3)": FORA(3),
        "TaylorSeer(3)": TaylorSeer(3),
        "cache-dit fast": PublishedMask("fast"),
        "PAB(2)": PAB(2),
        "FirstBlock(0.2)": FirstBlock(0.2),
        "DBCache F1B1": DBCache(1, 1, threshold=0.2),
        "TeaCache(0.5)": TeaCache(0.5),
        "SeaCache": SeaCache(),
    }
    if "magcache" in model.calibrations:
        found["MagCache"] = MagCache(resampled(model.calibrations["magcache"].tolist(), steps))
    return found


def caches_of_ddt(model: DiffusionModel, steps: int) -> dict[str, StepCache]:
    """The shared encoder: at even distances, and in as many steps where it is best run."""
    even = even_mask(steps, 3)
    chosen = with_shared_encoder(model, np.arange(8) % NUM_CLASSES, steps, int(even.sum()))
    return {
        "none": NoCache(),
        "encoder shared, every third": EncoderSharing(even),
        SHARED: EncoderSharing(chosen.calibrations["encoder-sharing"]),
    }


def drawn(
    judge: DigitJudge,
    model: DiffusionModel,
    caches: Mapping[str, StepCache],
    steps: int,
    batches: int,
    turns: int,
) -> dict[str, Drawn]:
    """What each cache does to the same digits; the first is none."""
    classes = np.arange(BATCH) % NUM_CLASSES
    found = {
        name: [model.generate(classes, steps, cache=cache, seed=seed) for seed in range(batches)]
        for name, cache in caches.items()
    }
    clocks = {
        name: lambda cache=cache: seconds(lambda: model.generate(classes, steps, cache=cache).latents)
        for name, cache in caches.items()
    }
    times = in_turns(clocks, turns)
    plain, rows = found[next(iter(found))], {}
    for name, images in found.items():
        pixels = np.concatenate([each.pixels for each in images])
        pairs = zip(images, plain, strict=True)
        away = [np.abs(each.latents - other.latents).mean() for each, other in pairs]
        rows[name] = Drawn(
            blocks=float(np.mean([each.blocks for each in images])) / model.denoiser.num_blocks,
            difference=float(np.mean(away)),
            recognised=judge.recognised(pixels, np.tile(classes, batches)),
            distance=judge.distance(pixels),
            median=times[name].median,
        )
    return rows


def table(caption: str, rows: Mapping[str, Drawn]) -> Table:
    """The rows with how many times as fast as the first each is."""
    first = next(iter(rows.values()))
    return Table(
        caption=caption,
        columns=COLUMNS,
        rows=[
            (name, r.blocks, r.median, first.median / r.median, r.difference, r.recognised, r.distance)
            for name, r in rows.items()
        ],
    )


def best_static(rows: Mapping[str, Drawn]) -> str:
    """The fastest static cache of those with which at most one digit of a hundred less is recognised."""
    static = [name for name in STATIC if name in rows]
    least = rows["none"].recognised - 0.01
    kept = [name for name in static if rows[name].recognised >= least]
    return min(kept or static, key=lambda name: rows[name].median)


def targets(kind: str, rows: Mapping[str, Drawn], name: str, aim: float) -> list[Target]:
    """Speed and cost of one cache."""
    speed = rows["none"].median / rows[name].median
    lost = rows["none"].recognised - rows[name].recognised
    return [
        Target(what=f"{kind}, {name}: times as fast", measured=speed, sense="at least", aim=aim),
        Target(what=f"{kind}, {name}: share recognised less", measured=lost, sense="at most", aim=0.01),
    ]


def measure(steps: int, batches: int, turns: int, models: Sequence[str]) -> Result:
    """Both models."""
    judge, tables, aims, values = digit_judge(), [], [], {}
    for name in models:
        model = jaxmodels.load(name)
        assert isinstance(model, DiffusionModel)
        shares = getattr(model.denoiser, "num_encoder_blocks", None) is not None
        caches = (caches_of_ddt if shares else caches_of_dit)(model, steps)
        rows = drawn(judge, model, caches, steps, batches, turns)
        tables.append(table(f"{name}, {steps} steps for {BATCH} digits at once", rows))
        if not shares and "harmonica" in model.calibrations:
            router = model.calibrations["harmonica"]
            routed = {"none": NoCache(), "HarmoniCa": HarmoniCa(router)}
            few = drawn(judge, model, routed, len(router), batches, turns)
            tables.append(table(f"{name}, {len(router)} steps", few))
        best = SHARED if shares else best_static(rows)
        aims += targets(name, rows, best, 1.3 if shares else 1.5)
        values |= {f"{name}, {cache}, median_s": row.median for cache, row in rows.items()}
    return Result(
        name="diffusion_caches",
        title="Caches of denoising steps",
        method=(
            f"{batches * BATCH} digits for each cache, as many of each class, from the same noise, with the "
            f"model's own sampler and guidance. Times are medians of {turns} turns."
        ),
        values=values,
        tables=tables,
        targets=aims,
    )


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--batches", type=int, default=10, help=f"of {BATCH} digits each")
    parser.add_argument("--models", nargs="+", default=["tiny-dit", "tiny-ddt"])
    arguments = parser.parse_args()
    if arguments.quick:
        publish(measure(10, 1, 1, arguments.models), arguments)
    else:
        publish(measure(STEPS, arguments.batches, 5, arguments.models), arguments)


if __name__ == "__main__":
    main()
