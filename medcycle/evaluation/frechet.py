"""How far two sets of pictures lie apart, from the features or the class probabilities of a network: pure formulas.

The formulas know nothing of the network. Only with the features of the 2015 Inception network are the distances called
FID and KID; see :mod:`medcycle.evaluation.features`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from medcycle.errors import ScanError

Array = npt.NDArray[np.float64]

KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000  # at most, as in the authors' program and clean-fid


def frechet_distance(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """The squared Fréchet distance of the normal distributions fitted to two sets (Heusel 2017, eq. 6).

        |mean_x - mean_y|^2 + tr(S_x) + tr(S_y) - 2 tr((S_x S_y)^(1/2)),     S the sample covariances (N - 1)

    No matrix root is taken. With X (n, D) the features minus their mean, divided by sqrt(n - 1), and Y likewise,
    S_x S_y = X'X Y'Y. The non-zero eigenvalues of a product do not change when its first factor moves to the end, so
    they are those of (X Y')(X Y')', which are the squared singular values of X Y'. The trace of the root is therefore
    the sum of the singular values of X Y', an (n, m) matrix: exact for singular covariances (fewer pictures than
    features), never complex, and for 140 pictures some thousand times faster than a root of 2048 x 2048.

    Args:
        x: features, shape (n, D).
        y: features, shape (m, D).

    Returns:
        The distance, at least 0. It falls with the number of pictures: compare only sets of equal sizes.

    Raises:
        ScanError: fewer than two rows, different D, values that are not finite.
    """
    x, y = _checked(x, y)
    x_root, y_root = _root(x), _root(y)
    shift = float(np.square(x.mean(0) - y.mean(0)).sum())
    traces = float(np.square(x_root).sum() + np.square(y_root).sum())
    common = float(np.linalg.svd(x_root @ y_root.T, compute_uv=False).sum())
    return max(shift + traces - 2 * common, 0.0)


def _root(x: Array) -> Array:
    """A matrix R of at most D rows with R'R the sample covariance of the rows of x."""
    centred = (x - x.mean(0)) / math.sqrt(len(x) - 1)
    # With more pictures than features the triangle of a QR decomposition says the same in D rows.
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(x) > x.shape[1] else centred


def kernel_distance(
    x: npt.ArrayLike, y: npt.ArrayLike, subsets: int = KID_SUBSETS, subset_size: int | None = None, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation over random subsets of the squared MMD with the kernel (a.b / D + 1)^3.

    Each value is the unbiased estimate for equal numbers of pictures of both sets (Binkowski 2018, eq. 4): unlike the
    Fréchet distance it does not depend on how many there are, and may be below 0.

    Args:
        x: features, shape (n, D).
        y: features, shape (m, D).
        subsets: how many pairs of subsets to draw, without replacement within each.
        subset_size: rows of each; never more than the smaller set has. None: the smaller set's size, 1000 at most.
        seed: of the draws. The same seed gives the same figures.

    Returns:
        (mean, std). The spread shows what the choice of subsets does, not how certain the distance is: it is smaller
        the larger the subsets, and NaN where every subset is a whole set.

    Raises:
        ScanError: as :func:`frechet_distance`; subsets that are too large, too small or too few.
    """
    x, y = _checked(x, y)
    smaller = min(len(x), len(y))
    size = kid_subset_size(len(x), len(y)) if subset_size is None else subset_size
    if not 2 <= size <= smaller or subsets < 1:
        raise ScanError(
            f"{subsets} subsets of {size} pictures; the smaller set has {smaller}. Draw at least one subset of 2 to "
            f"{smaller} pictures."
        )
    of_x, of_y, between = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    rng = np.random.RandomState(seed)  # whose stream NumPy has promised never to change
    values = np.empty(subsets)
    for index in range(subsets):
        i, j = rng.choice(len(x), size, replace=False), rng.choice(len(y), size, replace=False)
        values[index] = _unbiased(of_x[np.ix_(i, i)], of_y[np.ix_(j, j)], between[np.ix_(i, j)])
    whole = size == len(x) == len(y)
    return float(values.mean()), math.nan if whole else float(values.std())


def kid_subset_size(n: int, m: int) -> int:
    """The subset size that :func:`kernel_distance` takes for sets of n and m pictures."""
    return min(n, m, KID_SUBSET_SIZE)


def full_kernel_distance(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """The same squared MMD, estimated once from all pictures: what :func:`kernel_distance` samples the mean of.

    Args:
        x: features, shape (n, D).
        y: features, shape (m, D).

    Raises:
        ScanError: as :func:`frechet_distance`.
    """
    x, y = _checked(x, y)
    return _unbiased(_kernel(x, x), _kernel(y, y), _kernel(x, y))


def _kernel(x: Array, y: Array) -> Array:
    kernel: Array = (x @ y.T / x.shape[1] + 1) ** 3
    return kernel


def _unbiased(of_x: Array, of_y: Array, between: Array) -> float:
    """MMD_u^2 (Gretton 2012, eq. 3): a picture is not compared with itself."""
    n, m = between.shape
    within_x = (of_x.sum() - np.trace(of_x)) / (n * (n - 1))
    within_y = (of_y.sum() - np.trace(of_y)) / (m * (m - 1))
    return float(within_x + within_y - 2 * between.mean())


def inception_score(probabilities: npt.ArrayLike, splits: int = 10) -> tuple[float, float]:
    """The Inception score, exp(E_x KL(p(y|x) || p(y))) (Salimans 2016, section 4), over parts of the set.

    Args:
        probabilities: of the classes, shape (N, classes); rows sum to 1.
        splits: the set is cut, in its order, into so many parts of (nearly) equal size, each with its own p(y).

    Returns:
        (mean, standard deviation) over the parts; 1 is the lowest possible score, the number of classes the highest.

    Raises:
        ScanError: rows that are no probabilities, or fewer pictures than parts.
    """
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or not np.isfinite(p).all() or p.min(initial=0) < 0 or not np.allclose(p.sum(1), 1, atol=1e-3):
        raise ScanError(f"an array of shape {p.shape} that does not hold one row of class probabilities a picture")
    if not 1 <= splits <= len(p):
        raise ScanError(f"an Inception score of {len(p)} picture(s) in {splits} parts; give 1 to {len(p)} parts")
    scores = []
    for part in np.array_split(p, [index * len(p) // splits for index in range(1, splits)]):
        marginal = np.broadcast_to(part.mean(0), part.shape)
        there = part > 0  # 0 log 0 is 0
        divergence = float((part[there] * np.log(part[there] / marginal[there])).sum()) / len(part)
        scores.append(math.exp(divergence))
    return float(np.mean(scores)), float(np.std(scores))


def _checked(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Array, Array]:
    """Both sets in float64, refused with a reason when they cannot be compared."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or x.shape[1] == 0:
        raise ScanError(
            f"features of shapes {x.shape} and {y.shape}; expected (n, D) and (m, D): the same network on both sets"
        )
    if min(len(x), len(y)) < 2:
        raise ScanError(f"sets of {len(x)} and {len(y)} picture(s); a distance needs at least 2 in each")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ScanError("features that are NaN or infinite. Look at the network and at the pictures.")
    return x, y
