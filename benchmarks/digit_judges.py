"""Two judges of drawn digits: a classifier, and a distance between the features of drawn and of real ones.

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

from jaxmodels.training.images.digits import load_digits, moved, reduced

# The size at which the judges see real digits; a move of one pixel is half of one of the originals.
SIZE = 16
# Of the network whose last hidden layer the distance is measured in.
HIDDEN, PASSES = (128, 32), 12


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
    return float(((mean - mean_) ** 2).sum() + np.trace(covariance) + np.trace(covariance_) - 2 * shared)


def _root(covariance: Float[np.ndarray, "F F"]) -> Float[np.ndarray, "F F"]:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _read(pixels: Float[np.ndarray, "B H W 1"]) -> Float[np.ndarray, "B 64"]:
    return reduced(2 * np.asarray(pixels, np.float32) - 1)
