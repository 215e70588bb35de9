"""Two judges of drawn digits: a classifier, and a distance between the features of drawn and of real ones.

    python -m benchmarks.digit_judges

Both are trained on the real digits that the bundled image models were trained on, moved by up to one pixel.
They read an image as the 64 means of its squares, so that images of all sizes are judged alike.
"""

import functools
import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC

import jaxmodels
from benchmarks.common import Result, Table, Target, argument_parser, publish
from jaxmodels.image_models.diffusion import DiffusionModel
from jaxmodels.training.images.digits import NUM_CLASSES, load_digits, moved, reduced

# The size at which the judges see real digits; a move of one pixel is half of one of the originals.
SIZE = 16
# Of the network whose last hidden layer the distance is measured in.
HIDDEN, PASSES = (128, 32), 12
# The models judged, of which the last draws in few steps; and the steps.
MODELS, STEPS = ("tiny-dit", "tiny-ddt", "tiny-meanflow"), (50, 20, 8, 4, 2, 1)
# Images drawn at once.
BATCH = 100


@dataclass(frozen=True, kw_only=True)
class DigitJudge:
    """A trained pair of judges.

    Attributes:
        classifier: a support vector machine.
        network: whose last hidden layer are the features.
        real: f64[N, F], the features of digits that neither has seen.
    """

    classifier: SVC
    network: MLPClassifier
    real: np.ndarray

    def recognised(self, pixels: Float[np.ndarray, "B H W 1"], classes: Int[np.ndarray, " B"]) -> float:
        """The share of images, with pixels from 0 to 1, in which the classifier sees their class."""
        return float(np.mean(self.classifier.predict(_read(pixels)) == classes))

    def distance(self, pixels: Float[np.ndarray, "B H W 1"]) -> float:
        """The Fréchet distance of images, with pixels from 0 to 1, from real digits that were held out."""
        return frechet_distance(features(self.network, _read(pixels)), self.real)


@functools.cache
def digit_judge() -> DigitJudge:
    """The two judges, trained the same way each time."""
    train, held_out = load_digits(SIZE)
    seen = moved(train, 1)
    x = reduced(seen.images)
    classifier = SVC(gamma=0.06, C=10).fit(x, seen.labels)
    network = MLPClassifier(HIDDEN, alpha=1e-3, batch_size=128, max_iter=PASSES, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is to stop here
        network.fit(x, seen.labels)
    return DigitJudge(
        classifier=classifier, network=network, real=features(network, reduced(held_out.images))
    )


def features(network: MLPClassifier, x: Float[np.ndarray, "N 64"]) -> Float[np.ndarray, "N F"]:
    """The last hidden layer of a network."""
    for weight, bias in zip(network.coefs_[:-1], network.intercepts_[:-1], strict=True):
        x = np.maximum(x @ weight + bias, 0)
    return x.astype(np.float64)


def frechet_distance(one: Float[np.ndarray, "N F"], other: Float[np.ndarray, "M F"]) -> float:
    """``|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))`` of the means and covariances of two sets of features
    (Heusel et al. 2017, https://arxiv.org/abs/1706.08500)."""
    (mean, covariance), (mean_, covariance_) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (one, other))
    root = _root(covariance)
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariance_ @ root), 0)).sum()
    distance = ((mean - mean_) ** 2).sum() + np.trace(covariance) + np.trace(covariance_) - 2 * shared
    return max(float(distance), 0.0)  # rounding may leave less


def _root(covariance: Float[np.ndarray, "F F"]) -> Float[np.ndarray, "F F"]:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _read(pixels: Float[np.ndarray, "B H W 1"]) -> Float[np.ndarray, "B 64"]:
    return reduced(2 * np.asarray(pixels, np.float32) - 1)


def drawn(model: DiffusionModel, steps: int, batches: int) -> tuple[np.ndarray, np.ndarray]:
    """Images with the sampler and the guidance of a model, as many of each class; and their classes."""
    classes = np.arange(BATCH) % NUM_CLASSES
    images = [model.generate(classes, steps, seed=seed).pixels for seed in range(batches)]
    return np.concatenate(images), np.tile(classes, batches)


def measure(batches: int, steps: tuple[int, ...]) -> Result:
    """Real digits, and those of the bundled diffusion models."""
    judge = digit_judge()
    rows: list[tuple[str, float | None, float, float]] = []
    for name, digits in zip(("real, not seen", "real, trained on"), reversed(load_digits(SIZE)), strict=True):
        pixels = digits.images / 2 + 0.5
        rows.append((name, None, judge.recognised(pixels, digits.labels), judge.distance(pixels)))
    for name in MODELS:
        model = jaxmodels.load(name)
        for count in steps:
            pixels, classes = drawn(model, count, batches)
            rows.append((name, count, judge.recognised(pixels, classes), judge.distance(pixels)))
    shares = {(row[0], row[1]): row[2] for row in rows}
    few, many = (shares[MODELS[-1], count] for count in (4, max(steps)))
    return Result(
        name="digit_judges",
        title="Digits drawn by diffusion",
        method=(
            f"{batches * BATCH} digits for each row, as many of each class, by each model's own sampler and "
            "guidance. `recognised` is the share in which a support vector machine, trained on the real "
            "digits that the models have seen, sees their class; `distance` the Fréchet distance of a small "
            "classifier's last hidden layer from real digits that were held out."
        ),
        values={f"{name}, {count} steps: recognised": share for (name, count), share in shares.items()},
        tables=[Table(caption="Judged", columns=("digits", "steps", "recognised", "distance"), rows=rows)],
        targets=[
            Target(what=f"tiny-dit, {steps[0]} steps: recognised", measured=shares["tiny-dit", steps[0]],
                   sense="at least", aim=0.95),
            Target(what=f"tiny-meanflow: 4 steps recognised less than {max(steps)}", measured=many - few,
                   sense="at most", aim=0.02),
        ],
    )  # fmt: skip


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--batches", type=int, default=10, help=f"of {BATCH} digits each")
    arguments = parser.parse_args()
    if arguments.quick:
        publish(measure(1, (8, 4)), arguments)
    else:
        publish(measure(arguments.batches, STEPS), arguments)


if __name__ == "__main__":
    main()
