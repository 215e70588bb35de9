"""How often digits drawn by `tiny-maskgit` are recognised, by steps and by what is kept between them.

    python -m benchmarks.digits

The classifier, a support vector machine of scikit-learn, is trained on the real digits that `tiny-maskgit`
was trained on, and scored on real ones that neither has seen.
"""

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.svm import SVC

import jaxmodels
from benchmarks.common import Result, Table, Target, argument_parser, in_turns, publish, seconds
from jaxmodels.decoding.masked.caches import CanvasCache, ReCAP, Recompute
from jaxmodels.image_models.masked import MaskedImageModel
from jaxmodels.training.images.digits import NUM_CLASSES, load_digits, reduced

# With as many steps as half of the codes, and groups that hold what their steps fill in.
CHEAP_STEPS, CHEAP = 32, ReCAP(tokens=13, local=3, full=8, temperature=1.0)
# Images drawn at once.
BATCH = 100


def classifier(size: int) -> SVC:
    """Trained on real digits."""
    train, _ = load_digits(size)
    return SVC(gamma=0.06, C=10).fit(reduced(train.images), train.labels)


def recognised(
    judge: SVC, model: MaskedImageModel, batches: int, steps: int, cache: CanvasCache
) -> tuple[float, int]:
    """The share of drawn digits in which the classifier sees their class, and the steps they took."""
    classes, found, taken = np.arange(BATCH) % NUM_CLASSES, [], 0
    for seed in range(batches):
        drawn = model.generate(classes, steps, cache=cache, seed=seed)
        found.append(judge.predict(reduced(2 * drawn.pixels - 1)) == classes)
        taken = max(taken, drawn.calls)
    return float(np.mean(found)), taken


def drawn_shares(judge: SVC, model: MaskedImageModel, batches: int, steps: Sequence[int]) -> Table:
    """What is recognised of real digits, of their codes and of drawn digits."""
    _, held_out = load_digits(model.size)
    again = 2 * model.pixels(model.codes(held_out.images / 2 + 0.5)) - 1
    rows: list[tuple[str, float | None, float]] = [
        ("real, not seen", None, float(judge.score(reduced(held_out.images), held_out.labels))),
        ("real, as codes and back", None, float(judge.score(reduced(again), held_out.labels))),
    ]
    for count in steps:
        share, _ = recognised(judge, model, batches, count, Recompute())
        rows.append(("drawn", count, share))
    return Table(caption="Recognised", columns=("digits", "steps", "share"), rows=rows)


def cheap_steps(judge: SVC, model: MaskedImageModel, batches: int, turns: int) -> Table:
    """The same number of steps with and without ReCAP."""
    classes = np.arange(BATCH) % NUM_CLASSES
    caches: dict[str, CanvasCache] = {repr(cache): cache for cache in (Recompute(), CHEAP)}

    def clock(cache: CanvasCache) -> Callable[[], float]:
        return lambda: seconds(lambda: model.generate(classes, CHEAP_STEPS, cache=cache).codes)

    found = {name: recognised(judge, model, batches, CHEAP_STEPS, cache) for name, cache in caches.items()}
    times = in_turns({name: clock(cache) for name, cache in caches.items()}, turns)
    return Table(
        caption=f"{CHEAP_STEPS} steps for {BATCH} digits at once, pixels included",
        columns=("cache", "recognised", "steps taken", "s, median"),
        rows=[(name, *found[name], times[name].median) for name in caches],
    )


def measure(batches: int, steps: Sequence[int], turns: int) -> Result:
    """Digits of all classes."""
    model = jaxmodels.load("tiny-maskgit")
    judge = classifier(model.size)
    shares, cheap = drawn_shares(judge, model, batches, steps), cheap_steps(judge, model, batches, turns)
    by_steps = {row[1]: float(row[2] or 0) for row in shares.rows if row[1]}
    (_, plain, _, slow), (_, kept, _, fast) = (tuple(map(_number, row)) for row in cheap.rows)
    return Result(
        name="digits",
        title="Digits drawn by tiny-maskgit",
        method=(
            f"{batches * BATCH} digits, as many of each class, judged by a support vector machine that was "
            f"trained on the real digits which tiny-maskgit has seen. Times are medians of {turns} turns."
        ),
        values={f"recognised, {count} steps": share for count, share in by_steps.items()},
        tables=[shares, cheap],
        targets=[
            Target(what="drawn in 8 steps: recognised", measured=by_steps[8], sense="at least", aim=0.9),
            Target(what="ReCAP: times as fast", measured=slow / fast, sense="at least", aim=1.5),
            Target(what="ReCAP: share recognised less", measured=plain - kept, sense="at most", aim=0.01),
        ],
    )


def _number(value: str | float | None) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--batches", type=int, default=10, help=f"of {BATCH} digits each")
    arguments = parser.parse_args()
    if arguments.quick:
        publish(measure(1, (8,), 1), arguments)
    else:
        publish(measure(arguments.batches, (2, 4, 8, 16), 7), arguments)


if __name__ == "__main__":
    main()
