"""Digits drawn by `tiny-var` and `tiny-tarflow`, and a flow run backwards token by token or in passes.

    python -m benchmarks.next_scale

The judges are those of `benchmarks.digit_judges`.
"""

from collections.abc import Callable, Mapping

import numpy as np

import jaxmodels
from benchmarks.common import Result, Table, Target, argument_parser, in_turns, publish, seconds
from benchmarks.digit_judges import digit_judge
from jaxmodels.decoding.flows.gs_jacobi import GSJacobi
from jaxmodels.decoding.flows.inversion import SEQUENTIAL, Inversion
from jaxmodels.image_models.flow import FlowImageModel
from jaxmodels.image_models.next_scale import NextScaleImageModel
from jaxmodels.training.images.digits import NUM_CLASSES

# Images drawn at once.
BATCH = 100
# The ways to run a flow backwards, and how many images at a time.
INVERSIONS: Mapping[str, Inversion] = {
    "token by token": SEQUENTIAL,
    "GS-Jacobi, one segment": GSJacobi(),
    "GS-Jacobi, four segments": GSJacobi(segments=4),
}
SIZES = (1, 16)
GUIDANCE = (None, 1.0, 2.0)


def drawn_digits(
    name: str, model: NextScaleImageModel | FlowImageModel, batches: int
) -> list[tuple[str, float | None, float, float]]:
    """For each guidance the share recognised, and the distance of features from real digits."""
    judge, classes, rows = digit_judge(), np.arange(BATCH) % NUM_CLASSES, []
    for guidance in GUIDANCE:
        made = [model.generate(classes, guidance=guidance, seed=seed).pixels for seed in range(batches)]
        pixels, asked = np.concatenate(made), np.tile(classes, batches)
        rows.append((name, guidance, judge.recognised(pixels, asked), judge.distance(pixels)))
    return rows


def inversions(model: FlowImageModel, turns: int) -> list[tuple[str, float, float, float, float]]:
    """For each way and number of images: most passes through a step, the largest difference of a pixel from
    running token by token, and seconds."""
    rows, tokens = [], model.flow.places
    for size in SIZES:
        classes = np.arange(size) % NUM_CLASSES

        def clock(inversion: Inversion, classes: np.ndarray = classes) -> Callable[[], float]:
            return lambda: seconds(lambda: model.generate(classes, sampler=inversion).pixels)

        exact = model.generate(classes).pixels
        times = in_turns({name: clock(inversion) for name, inversion in INVERSIONS.items()}, turns)
        for name, inversion in INVERSIONS.items():
            stages = [made.calls for made in model.stream(classes, sampler=inversion)]
            difference = np.abs(model.generate(classes, sampler=inversion).pixels - exact).max()
            passes = int(np.diff(stages).max())
            rows.append((name, float(size), passes / tokens, float(difference), times[name].median))
    return rows


def measure(batches: int, turns: int) -> Result:
    """Both models."""
    var, flow = jaxmodels.load("tiny-var"), jaxmodels.load("tiny-tarflow")
    drawn = [*drawn_digits("tiny-var", var, batches), *drawn_digits("tiny-tarflow", flow, batches)]
    found = inversions(flow, turns)
    at_once = [row for row in found if row[0] == "GS-Jacobi, one segment"]
    slow = {row[1]: row[4] for row in found if row[0] == "token by token"}
    return Result(
        name="next_scale",
        title="Digits drawn by tiny-var and tiny-tarflow",
        method=(
            f"{batches * BATCH} digits, as many of each class. A pass reads all tokens of a segment; most "
            f"passes are those of the step that takes the most, of {flow.flow.places} tokens. Times are "
            f"medians of {turns} turns, with the noise of training taken away."
        ),
        values={f"GS-Jacobi, {int(row[1])} images: times as fast": slow[row[1]] / row[4] for row in at_once},
        tables=[
            Table(
                caption="Drawn digits",
                columns=("model", "guidance", "recognised", "Fréchet distance"),
                rows=drawn,
            ),
            Table(
                caption="A flow run backwards",
                columns=("how", "images", "most passes per token", "largest difference", "s, median"),
                rows=found,
            ),
        ],
        targets=[
            Target(what="tiny-var: recognised", measured=drawn[0][2], sense="at least", aim=0.9),
            Target(
                what="GS-Jacobi: most passes per token",
                measured=max(row[2] for row in at_once),
                sense="at most",
                aim=0.5,
            ),
            Target(
                what="GS-Jacobi: largest difference of a pixel",
                measured=max(row[3] for row in at_once),
                sense="at most",
                aim=1e-4,
            ),
        ],
    )


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--batches", type=int, default=10, help=f"of {BATCH} digits each")
    arguments = parser.parse_args()
    publish(measure(1, 1) if arguments.quick else measure(arguments.batches, 7), arguments)


if __name__ == "__main__":
    main()
