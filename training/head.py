"""Fits the head of a bundle from embeddings and labels: plain arrays, no torch, seconds.

1. a linear classifier by damped Newton steps, each class with the same weight;
2. one temperature on held-out cells;
3. class-conditional conformal quantiles on held-out cells;
4. class means by origin and one shrunk precision matrix: the domain, its threshold from held-out cells;
5. the top probability from which on held-out cells of home are named with at most the allowed error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.bundle.manifest import WhiteCellType
from models.runtime.head import Head
from models.runtime.results import FloatArray
from training.errors import DataError

CLASSES = len(WhiteCellType)
MAX_NEWTON_STEPS = 40
LEAST_SPREAD = 1e-6
"""Embeddings that differ by less in every dimension tell no cell from another."""
LEAST_QUANTILE = 0.1
"""A class with a probability of .9 or more is always in the set."""
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class LabelledEmbeddings:
    """White cells as the embedder sees them.

    Attributes:
        embeddings: (N, D) float32.
        labels: (N,) int64, index into `WhiteCellType`.
        origins: (N,) int64; cells of one origin share a look (a laboratory, the generator). 0 is home.
    """

    embeddings: FloatArray
    labels: NDArray[np.int64]
    origins: NDArray[np.int64]

    def of_origin(self, origin: int) -> LabelledEmbeddings:
        """The cells of one origin."""
        return self.where(self.origins == origin)

    def where(self, chosen: NDArray[np.bool_]) -> LabelledEmbeddings:
        """The chosen cells."""
        return LabelledEmbeddings(self.embeddings[chosen], self.labels[chosen], self.origins[chosen])

    def with_others(self, others: LabelledEmbeddings) -> LabelledEmbeddings:
        """These cells, then the others."""
        return LabelledEmbeddings(
            np.concatenate([self.embeddings, others.embeddings]),
            np.concatenate([self.labels, others.labels]),
            np.concatenate([self.origins, others.origins]),
        )


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """How the head is fitted.

    Attributes:
        ridge: penalty on the weights of standardised embeddings.
        coverage: nominal coverage of the prediction sets.
        shrinkage: share of the diagonal in the covariance, 0..1.
        domain_quantile: share of held-out cells that count as at home.
        allowed_error: largest error among accepted held-out cells of home.
        least_acceptance: smallest probability that may ever be accepted.
        least_for_mean: a type and origin with fewer cells gets no mean of its own.
        threshold_origins: origins whose held-out cells set the domain's threshold; None for all of them.
    """

    ridge: float = 0.02
    coverage: float = 0.95
    shrinkage: float = 0.1
    domain_quantile: float = 0.975
    allowed_error: float = 0.01
    least_acceptance: float = 0.6
    least_for_mean: int = 1
    threshold_origins: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class FittedHead:
    """The head, the probability needed to name a type, and the coverage its sets were made for."""

    head: Head
    accept_probability: float
    coverage: float


def fit_head(
    train: LabelledEmbeddings,
    held_out: LabelledEmbeddings,
    options: HeadOptions | None = None,
    *,
    weights_of: Array | None = None,
) -> FittedHead:
    """Fit every array of the head.

    Args:
        train: cells for the classifier and the class means.
        held_out: other cells, for temperature, quantiles, thresholds.
        options: penalties and levels.
        weights_of: (N,) how much each training cell counts within its type; by default all alike.

    Raises:
        DataError: a class without cells on either side, or embeddings that do not differ.
    """
    options = options or HeadOptions()
    for name, cells in (("training", train), ("held-out", held_out)):
        missing = sorted(set(range(CLASSES)) - set(cells.labels.tolist()))
        if missing:
            kinds = ", ".join(list(WhiteCellType)[c] for c in missing)
            raise DataError(f"no {name} cells of type {kinds}; label some before fitting a head")
    if float(train.embeddings.std(axis=0).max()) < LEAST_SPREAD:
        raise DataError("the embeddings of all cells are alike: the embedder is untrained, or int8 left nothing of it")
    weights, bias = fit_linear(train.embeddings, train.labels, ridge=options.ridge, weights_of=weights_of)
    logits = held_out.embeddings.astype(np.float64) @ weights.T + bias
    temperature = fit_temperature(logits, held_out.labels)
    chances = softmax(logits / temperature)
    means, precision = fit_domain(train, shrinkage=options.shrinkage, least_for_mean=options.least_for_mean)
    head = Head(
        weights=weights.astype(np.float32),
        bias=bias.astype(np.float32),
        temperature=np.array(temperature, np.float32),
        conformal_quantiles=conformal_quantiles(chances, held_out.labels, options.coverage).astype(np.float32),
        domain_means=means.astype(np.float32),
        domain_precision=precision.astype(np.float32),
        domain_threshold=np.array(1.0, np.float32),
    )
    distances = head.distances(held_out.embeddings)
    wanted = options.threshold_origins
    origins = [o for o in np.unique(held_out.origins) if wanted is None or o in wanted]
    threshold = max(float(np.quantile(distances[held_out.origins == o], options.domain_quantile)) for o in origins)
    head = Head(**{**_arrays(head), "domain_threshold": np.array(threshold, np.float32)})
    accept = accept_probability(chances, held_out.labels, options)
    return FittedHead(head, accept, options.coverage)


def _arrays(head: Head) -> dict[str, FloatArray]:
    return {name: getattr(head, name) for name in Head.__slots__}


def softmax(logits: Array) -> Array:
    """(N, K) logits -> (N, K) probabilities."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)


def fit_linear(
    embeddings: FloatArray, labels: NDArray[np.int64], *, ridge: float, weights_of: Array | None = None
) -> tuple[Array, Array]:
    """Multinomial logistic regression with a ridge; returns weights (K, D) and bias (K,) for raw embeddings.

    Each class has the same weight; within a class cells count by `weights_of` (N,), by default all alike.
    """
    mean, deviation = embeddings.mean(axis=0, dtype=np.float64), embeddings.std(axis=0, dtype=np.float64) + 1e-6
    x = np.hstack([(embeddings.astype(np.float64) - mean) / deviation, np.ones((len(embeddings), 1))])
    wanted = np.eye(CLASSES)[labels]
    counts = np.ones(len(embeddings)) if weights_of is None else np.asarray(weights_of, np.float64)
    share = counts / np.maximum(1e-12, counts @ wanted)[labels] / CLASSES
    penalty = np.full(x.shape[1], ridge)
    penalty[-1] = 1e-6
    weights = np.zeros((CLASSES, x.shape[1]))
    for _ in range(MAX_NEWTON_STEPS):
        chances = softmax(x @ weights.T)
        slope = ((chances - wanted) * share[:, None]).T @ x + penalty * weights
        step = _newton_step(x, chances, share, penalty, slope)
        weights = _line_search(x, wanted, share, penalty, weights, step)
        if np.abs(step).max() < 1e-6:
            break
    slopes = weights[:, :-1] / deviation
    return slopes, weights[:, -1] - slopes @ mean


def _newton_step(x: Array, chances: Array, share: Array, penalty: Array, slope: Array) -> Array:
    size = x.shape[1]
    curvature = np.zeros((CLASSES * size, CLASSES * size))
    for a in range(CLASSES):
        for b in range(a, CLASSES):
            product = share * chances[:, a] * ((a == b) - chances[:, b])
            block = (x * product[:, None]).T @ x
            curvature[a * size : (a + 1) * size, b * size : (b + 1) * size] = block
            curvature[b * size : (b + 1) * size, a * size : (a + 1) * size] = block
    curvature[np.diag_indices_from(curvature)] += np.tile(penalty, CLASSES)
    solved = np.linalg.solve(curvature, slope.reshape(-1))
    return np.asarray(solved, np.float64).reshape(CLASSES, size)


def _line_search(x: Array, wanted: Array, share: Array, penalty: Array, weights: Array, step: Array) -> Array:
    def loss(w: Array) -> float:
        chances = softmax(x @ w.T)
        fit = -(share * np.log(np.maximum((chances * wanted).sum(axis=1), 1e-300))).sum()
        return float(fit + 0.5 * (penalty * w * w).sum())

    before, size = loss(weights), 1.0
    while size > 1e-4:
        candidate = weights - size * step
        if loss(candidate) <= before:
            return candidate
        size /= 2
    return weights


def fit_temperature(logits: Array, labels: NDArray[np.int64]) -> float:
    """Temperature with the least negative log-likelihood, searched on a fine grid from .05 to 20."""
    grid = np.geomspace(0.05, 20.0, 241)
    rows = np.arange(len(labels))
    losses = [-np.log(np.maximum(softmax(logits / t)[rows, labels], 1e-300)).mean() for t in grid]
    return float(grid[int(np.argmin(losses))])


def conformal_quantiles(chances: Array, labels: NDArray[np.int64], coverage: float) -> Array:
    """(K,) largest nonconformity 1 - p that puts a class into the set, each class covered by itself.

    Never below `LEAST_QUANTILE`: on an easy class the exact quantile would empty the set of a cell at p = .99. A larger
    quantile covers more, never less.
    """
    quantiles = np.empty(CLASSES)
    for c in range(CLASSES):
        scores = np.sort(1 - chances[labels == c, c])
        rank = int(np.ceil((len(scores) + 1) * coverage))
        quantiles[c] = max(LEAST_QUANTILE, scores[rank - 1]) if rank <= len(scores) else 1.0
    return quantiles


def fit_domain(cells: LabelledEmbeddings, *, shrinkage: float, least_for_mean: int = 1) -> tuple[Array, Array]:
    """Means (M, D), one a class and origin that occurs often enough, and the precision (D, D) of what is left."""
    x = cells.embeddings.astype(np.float64)
    means, centred = [], []
    for origin in np.unique(cells.origins):
        for label in np.unique(cells.labels[cells.origins == origin]):
            chosen = (cells.origins == origin) & (cells.labels == label)
            if chosen.sum() >= least_for_mean:
                means.append(x[chosen].mean(axis=0))
                centred.append(x[chosen] - means[-1])
    rest = np.concatenate(centred)
    covariance = rest.T @ rest / max(1, len(rest) - len(means))
    diagonal = np.diag(np.diag(covariance)) + np.eye(x.shape[1]) * 1e-4 * np.trace(covariance) / x.shape[1]
    return np.stack(means), np.linalg.inv((1 - shrinkage) * covariance + shrinkage * diagonal)


def accept_probability(chances: Array, labels: NDArray[np.int64], options: HeadOptions) -> float:
    """Smallest top probability from which on the error among held-out cells is within what is allowed."""
    top, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    order = np.argsort(-top)
    errors = np.cumsum(~right[order]) / np.arange(1, len(order) + 1)
    fine = np.nonzero(errors <= options.allowed_error)[0]
    if not len(fine):
        return 0.99
    return float(np.clip(round(float(top[order[fine[-1]]]), 4), options.least_acceptance, 0.99))
