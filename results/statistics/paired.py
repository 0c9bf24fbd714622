"""What may be said of a difference: paired tests over images, Holm's correction, intervals over seeds, what could have been seen.

Scores are summed by image (`vlpeft.benchmark.cells.scores`), since the questions of one image are not independent, and averaged over
seeds. So a test asks whether the difference between two methods, as trained here, would hold on other images; how much
another seed would change it, the standard deviation and the interval over seeds say.
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
BLOCK = 1024  # images whose signs are drawn at once, which bounds memory
TIES = 1e-9  # relative: sums that differ only by rounding are equal

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A minus B over the same examples, in points.

    low, high: 95 % interval, not corrected for several comparisons; NaN for one image.
    p: two-sided, of this comparison alone.  corrected: p by Holm's method among those made together.
    detectable: the smallest true difference that such a test (5 %, uncorrected) would find four times of five; NaN for one image.
    """

    value: float
    low: float
    high: float
    p: float
    corrected: float
    detectable: float

    @property
    def significant(self) -> bool:
        """Whether it is rejected at 5 %, after the correction, that there is none."""
        return self.corrected < LEVEL


def differences(a: Floats, b: Floats, examples: Floats) -> list[Difference]:
    """One difference a row of `b`, corrected together.

    a: (images,) sums of scores;  b: (others, images);  examples: (images,) how many examples each image has.
    The interval is the clustered error times Student's t; the detectable difference adds the t of the wanted power to it
    (Bloom 1995, "Minimum detectable effects"; for test sets of language models: Card et al. 2020, EMNLP).
    """
    found = a[None] - b
    values, errors, spread = (
        found.sum(1) / examples.sum(),
        standard_errors(found, examples),
        _t(len(examples)),
    )
    raw = sign_flip(found)
    detectable = errors * (spread + _t(len(examples), 2 * (1 - POWER)))
    columns = (
        values,
        values - spread * errors,
        values + spread * errors,
        raw,
        holm(raw),
        detectable,
    )
    return [Difference(*map(float, row)) for row in zip(*columns, strict=True)]


def sign_flip(sums: Floats, resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """Two-sided p of each row of paired differences, (rows, images), by flipping the signs of whole images at random.

    Without a difference between two methods each image's sum is as likely positive as negative (Fisher 1935; Good 2005,
    "Permutation, Parametric and Bootstrap Tests of Hypotheses", 3.2; for metrics of language: Dror et al. 2018, ACL).
    p = (1 + as extreme) / (1 + resamples), which is never 0 (Phipson and Smyth 2010). The same as
    `scipy.stats.permutation_test(permutation_type="samples")`, for all rows by one product of matrices; a test compares them.
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
    """+1 or -1, (resamples, images); kept, since the columns of a table mostly have equally many images."""
    drawn = np.random.default_rng([seed, block]).integers(0, 2, (resamples, images), dtype=np.int8)
    return drawn.astype(np.float64) * 2 - 1


def standard_errors(sums: Floats, examples: Floats) -> Floats:
    """Of each row's mean over all examples, clustered by image; NaN for one image. sums: (rows, images).

    Errors are independent between images, not within (Liang and Zeger 1986; for evaluations of models: Miller 2024, "Adding
    Error Bars to Evals", which also pairs). The mean is a ratio, since images have different numbers of examples: linearised,
    as in Cochran 1977, 6.3.
    """
    images = len(examples)
    if images < 2:
        return np.full(len(sums), np.nan)
    residual = sums - (sums.sum(1, keepdims=True) / examples.sum()) * examples
    return np.asarray(np.sqrt((residual**2).sum(1) * images / (images - 1)) / examples.sum())


def _t(count: int, level: float = LEVEL) -> float:
    """Quantile of Student's t: how many standard errors leave `level` outside, on both sides together; NaN where there is no spread."""
    if count < 2:
        return float("nan")
    from scipy.special import stdtrit  # a quarter of a second, which most tables do without

    return float(stdtrit(count - 1, 1 - level / 2))


def holm(p: Sequence[float] | Floats) -> Floats:
    """Corrected p of comparisons made together: at 5 %, one or more wrong rejections in at most 5 % of tables.

    Holm 1979, "A simple sequentially rejective multiple test procedure": the i-th smallest of m is multiplied by m - i + 1,
    and none may stand below a smaller one. Valid whatever the dependence between comparisons.
    """
    raw = np.asarray(p, dtype=np.float64)
    order = np.argsort(raw, kind="stable")
    corrected = np.empty_like(raw)
    corrected[order] = np.minimum(1, np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1)))
    return corrected


def seed_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean over seeds, by Student's t (1908) with n - 1 degrees of freedom; None for fewer than two.

    It assumes that seeds scatter normally: a few seeds cannot show otherwise. Few seeds make it wide (12.7 standard errors for two).
    """
    if len(values) < 2:
        return None
    half = _t(len(values)) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    middle = float(np.mean(values))
    return middle - half, middle + half


def ranks(means: Sequence[float], tied: Sequence[bool]) -> list[int]:
    """1 for the highest mean and for those `tied` with it, else one more than how many are tied or have a higher mean.

    Equal means share the better rank ("standard competition ranking"; Kendall 1945 on ties). `tied`: not significantly below the best.
    """
    level = np.asarray(means, dtype=np.float64)
    level[np.asarray(tied, dtype=bool)] = np.inf
    return [1 + int((level > own).sum()) for own in level]
