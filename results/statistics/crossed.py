"""A test of a difference over seeds and images: would it hold with other seeds, on other images?

A test over images (`vlpeft.results.statistics.paired`) takes the trained models as they are. This
one also needs to know how training scatters, so it is for SEEDS seeds or more.
"""

from __future__ import annotations

import numpy as np

from vlpeft.results.statistics.paired import Floats, standard_errors

SEEDS = 3  # two seeds say too little about how seeds scatter


def image_errors(sums: Floats, examples: Floats) -> Floats:
    """Return the standard errors over images that more seeds would not reduce.

    Args:
        sums: Differences by seed and image, (rows, seeds, images); two seeds or more.
        examples: How many examples each image has, (images,).

    Returns:
        Errors, (rows,), of the mean over seeds; NaN for one image.

    The error of the mean over n seeds also holds the scatter of each image from seed to seed,
    divided by n. It is taken out, because the scatter over seeds has it already.
    """
    _, seeds, images = sums.shape
    total = examples.sum()
    if images < 2:
        return np.full(len(sums), np.nan)
    errors = standard_errors(sums.mean(1), examples)
    # The residuals of each seed, as in `standard_errors`.
    residuals = sums - (sums.sum(2, keepdims=True) / total) * examples
    from_seeds = residuals.var(1, ddof=1).sum(1) / seeds * images / (images - 1) / total**2
    return np.asarray(np.sqrt(np.maximum(0.0, errors**2 - from_seeds)))


def two_way(sums: Floats, examples: Floats) -> Floats:
    """Return the two-sided p of each row of paired differences, over seeds and images.

    Args:
        sums: Differences by seed and image, (rows, seeds, images); two seeds or more.
        examples: How many examples each image has, (images,).

    Returns:
        p, (rows,). It is 1 for a single image, and where nothing differs.

    Seeds and images are crossed: every model was tested on the same images. The variance of the
    mean is spread^2 / seeds + image error^2. The mean, divided by its root, is compared with
    Student's t, whose degrees of freedom follow from both parts (Satterthwaite 1946; Clark 1973,
    "The language-as-fixed-effect fallacy", has this test for subjects and words). Drawing seeds
    and images again gives the same variance (Owen 2007, "The pigeonhole bootstrap"), but no honest
    p for a few seeds: with three, it calls nothing significant or far too much.
    """
    # This import takes a quarter of a second, and most tables do not need it.
    from scipy.special import stdtr

    rows, seeds, images = sums.shape
    if images < 2:
        return np.ones(rows)
    by_seed = sums.sum(2) / examples.sum()
    from_seeds = by_seed.var(1, ddof=1) / seeds
    from_images = image_errors(sums, examples) ** 2
    variance = from_seeds + from_images
    p = np.ones(rows)
    for row, mean in enumerate(by_seed.mean(1)):
        if variance[row] > 0:
            parts = from_seeds[row] ** 2 / (seeds - 1) + from_images[row] ** 2 / (images - 1)
            freedom = variance[row] ** 2 / parts
            p[row] = 2 * stdtr(freedom, -abs(mean) / np.sqrt(variance[row]))
        elif mean != 0:
            p[row] = 0.0
    return p
