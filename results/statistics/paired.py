"""Statistics of differences between two methods.

These are paired tests over images, Holm's correction, intervals over seeds, and the smallest
difference that a test could have found.

Scores are summed by image (`vlpeft.benchmark.cells.scores`), because the questions of one image
are not independent. Then they are averaged over seeds. So a test asks whether the difference
between two methods, as trained here, would hold on other images. Whether it would hold with other
seeds, too, is asked by `vlpeft.results.statistics.crossed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
POWER = 0.8
RESAMPLES = 9999
SEED = 0
BLOCK = 1024  # images whose signs are drawn at once; it bounds the memory
TIES = 1e-9  # relative; sums that differ by less than this are equal up to rounding

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A minus B over the same examples, in points.

    low, high: 95 % interval, not corrected for several comparisons; NaN for one image.
    p: two-sided over images, of this comparison alone.
    corrected: p by Holm's method, among all comparisons that were made together; of the larger of
        `p` and `p_both`.
    detectable: the smallest true difference that such a test (5 %, uncorrected) would find four
        times out of five; NaN for one image.
    """

    value: float
    low: float
    high: float
    p: float
    corrected: float
    detectable: float
    p_both: float | None = None  # two-sided over seeds and images, where there are enough seeds

    @property
    def significant(self) -> bool:
        """Whether "no difference" is rejected at 5 %, after the correction."""
        return self.corrected < LEVEL


def differences(a: Floats, b: Floats, examples: Floats) -> list[Difference]:
    """Return `a` minus each row of `b`, corrected together.

    Args:
        a: sums of scores, (images,).
        b: sums of scores of the other methods, (others, images).
        examples: how many examples each image has, (images,).

    The interval is the clustered error times Student's t. The detectable difference adds the t of
    the wanted power to it (Bloom 1995, "Minimum detectable effects"; for test sets of language
    models: Card et al. 2020, EMNLP).
    """
    sums = a[None] - b
    values = sums.sum(1) / examples.sum()
    errors = standard_errors(sums, examples)
    spread = _t(len(examples))
    raw = sign_flip(sums)
    detectable = errors * (spread + _t(len(examples), 2 * (1 - POWER)))
    low, high = values - spread * errors, values + spread * errors
    columns = (values, low, high, raw, holm(raw), detectable)
    return [Difference(*map(float, row)) for row in zip(*columns, strict=True)]


def sign_flip(sums: Floats, resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """Return the two-sided p of each row of paired differences.

    Args:
        sums: differences by image, (rows, images).
        resamples: how many times the signs of all images are drawn.
        seed: of the random signs.

    Returns:
        p, (rows,): (1 + as extreme) / (1 + resamples), which is never 0 (Phipson and Smyth 2010).

    The test flips the signs of whole images at random. Without a difference between two methods,
    each image's sum is as likely positive as negative (Fisher 1935; Good 2005, "Permutation,
    Parametric and Bootstrap Tests of Hypotheses", 3.2; for metrics of language: Dror et al. 2018,
    ACL). It equals `scipy.stats.permutation_test(permutation_type="samples")`, but computes all
    rows by one product of matrices; a test compares the two.
    """
    total = np.abs(sums.sum(1))
    null = np.zeros((resamples, len(sums)))
    for block in range(0, sums.shape[1], BLOCK):
        part = sums[:, block : block + BLOCK]
        null += _signs(seed, block, resamples, part.shape[1]) @ part.T
    extreme = np.abs(null) >= total - TIES * np.abs(sums).sum(1)
    return np.asarray((1 + extreme.sum(0)) / (1 + resamples))


@lru_cache(maxsize=2)
def _signs(seed: int, block: int, resamples: int, images: int) -> Floats:
    """Draw +1 or -1, (resamples, images).

    The result is cached, because the columns of a table mostly have equal numbers of images.
    """
    drawn = np.random.default_rng([seed, block]).integers(0, 2, (resamples, images), dtype=np.int8)
    return drawn.astype(np.float64) * 2 - 1


def standard_errors(sums: Floats, examples: Floats) -> Floats:
    """Return the standard error of each row's mean over all examples, clustered by image.

    Args:
        sums: differences by image, (rows, images).
        examples: how many examples each image has, (images,).

    Returns:
        errors, (rows,); NaN for one image.

    Errors are independent between images, but not within one (Liang and Zeger 1986; for
    evaluations of models: Miller 2024, "Adding Error Bars to Evals", which also pairs). The mean
    is a ratio, because images have different numbers of examples. It is linearised as in Cochran
    1977, 6.3.
    """
    images = len(examples)
    if images < 2:
        return np.full(len(sums), np.nan)
    residual = sums - (sums.sum(1, keepdims=True) / examples.sum()) * examples
    return np.asarray(np.sqrt((residual**2).sum(1) * images / (images - 1)) / examples.sum())


def _t(count: int, level: float = LEVEL) -> float:
    """Return the quantile of Student's t for `count` values.

    It is the number of standard errors that leave `level` outside, on both sides together. NaN for
    fewer than two values.
    """
    if count < 2:
        return float("nan")
    # This import takes a quarter of a second, and most tables do not need it.
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, 1 - level / 2))


def holm(p: Sequence[float] | Floats) -> Floats:
    """Return the corrected p of comparisons that were made together.

    At 5 %, at most 5 % of tables have one or more wrong rejections. This is Holm 1979, "A simple
    sequentially rejective multiple test procedure": the i-th smallest of m is multiplied by
    m - i + 1, and no corrected p may be below that of a smaller p. It is valid for any dependence
    between the comparisons.
    """
    raw = np.asarray(p, dtype=np.float64)
    order = np.argsort(raw, kind="stable")
    corrected = np.empty_like(raw)
    corrected[order] = np.minimum(1, np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1)))
    return corrected


def seed_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean over seeds, None for fewer than two.

    It uses Student's t (1908) with n - 1 degrees of freedom, and assumes that seeds scatter
    normally: a few seeds cannot show otherwise. Few seeds make it wide: 12.7 standard errors for
    two.
    """
    if len(values) < 2:
        return None
    half = _t(len(values)) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    middle = float(np.mean(values))
    return middle - half, middle + half


def ranks(means: Sequence[float], tied: Sequence[bool]) -> list[int]:
    """Return the rank of each mean; the highest has rank 1.

    Equal means share the better rank ("standard competition ranking"; Kendall 1945 on ties).

    tied: those that are not significantly below the best. They share its rank 1.
    """
    level = np.asarray(means, dtype=np.float64)
    level[np.asarray(tied, dtype=bool)] = np.inf
    return [1 + int((level > own).sum()) for own in level]
