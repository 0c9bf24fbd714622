"""How many seeds a comparison of two methods needs.

The difference of two methods scatters over seeds and over the images of the test split. More seeds
make the first smaller and leave the second as it is, so below some difference no number of seeds
is enough: only a larger test split is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from vlpeft.results.statistics.paired import LEVEL, POWER

MOST = 10_000  # seeds; a comparison that needs more is called impossible
CERTAIN = 1e6  # errors from 0; from 1e10 scipy gives NaN
FAR = 6.0  # errors from 0; from there the other tail is below 1e-9, and scipy gives NaN for it
# Of the upper limit of a standard deviation that few seeds have shown.
CONFIDENCE = 0.8


def seeds_needed(detect: float, spread: float, image_error: float = 0.0) -> int | None:
    """Return the smallest number of seeds that finds a difference four times out of five.

    Args:
        detect: The true difference to find, in points; more than 0.
        spread: The standard deviation of the difference over seeds.
        image_error: The standard error of the difference over images, which seeds do not reduce.

    Returns:
        At least 2; None if no number of seeds is enough.

    The test is Student's t of the differences by seed, at 5 %, with the variance spread^2 / n +
    image_error^2 and n - 1 degrees of freedom; its power is that of the noncentral t (Cohen 1988,
    "Statistical Power Analysis", chapter 2).
    """

    def is_enough(n: int) -> bool:
        error = math.hypot(spread / math.sqrt(n), image_error)
        return error == 0 or _power(detect / error, n) >= POWER

    if not is_enough(MOST):
        return None
    return _smallest(is_enough)


def sign_flip_needs() -> int:
    """Return how many seeds a sign-flip test over seeds needs to reach 5 % at all.

    Of n seeds whose signs are flipped, the smallest two-sided p is 2 / 2^n.
    """
    return _smallest(lambda n: 2 / 2**n < LEVEL)


def upper_spread(spread: float, n: int) -> float:
    """Return the upper limit of a standard deviation that n seeds have shown, at 80 %.

    A spread of few seeds is as likely too small as too large, and then the planned number of seeds
    is too small, too. Browne 1995, "On the use of a pilot sample for sample size determination",
    recommends this limit in its place.
    """
    from scipy.special import chdtri

    return spread * math.sqrt((n - 1) / float(chdtri(n - 1, CONFIDENCE)))


def _power(shift: float, n: int) -> float:
    """Return the power of a two-sided t-test of n values whose mean is `shift` errors from 0."""
    # This import takes a quarter of a second, and most commands do not need it.
    from scipy.special import nctdtr, stdtrit

    if shift > CERTAIN:
        return 1.0
    limit = stdtrit(n - 1, 1 - LEVEL / 2)
    power = float(1 - nctdtr(n - 1, shift, limit))
    if shift < FAR:
        power += float(nctdtr(n - 1, shift, -limit))
    return power


def _smallest(is_enough: Callable[[int], bool]) -> int:
    """Return the smallest number from 2 that is enough; all larger ones must be, too."""
    high = 2
    while not is_enough(high):
        high *= 2
    low = high // 2  # not enough, or 1
    while high - low > 1:
        middle = (low + high) // 2
        if is_enough(middle):
            high = middle
        else:
            low = middle
    return high
