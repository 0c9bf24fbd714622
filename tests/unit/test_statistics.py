"""Statistics against scipy, examples from the literature, and their guarantees on made-up data."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests

from vlpeft.results.statistics.crossed import image_errors, two_way
from vlpeft.results.statistics.paired import (
    differences,
    holm,
    ranks,
    seed_interval,
    sign_flip,
    standard_errors,
)


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("shift", [0.0, 0.4, 0.9])
def test_sign_flip_is_scipys_permutation_test(shift):
    sums = drawn(1, 3, 9) + shift
    for row, p in zip(sums, sign_flip(sums), strict=True):
        exact = stats.permutation_test(
            (row,), np.sum, permutation_type="samples", n_resamples=10**6
        )  # all 512
        assert p == pytest.approx(exact.pvalue, abs=0.02)


def test_sign_flip_is_repeatable_in_any_order():
    sums = drawn(2, 4, 1500)  # two blocks
    assert sign_flip(sums)[2] == sign_flip(sums[2:3])[0] == sign_flip(sums[2:3] * 8)[0]
    assert sign_flip(sums, seed=1)[2] != sign_flip(sums)[2]


def test_no_difference_is_never_significant():
    (found,) = differences(np.ones(5), np.ones((1, 5)), np.ones(5))
    assert (found.value, found.low, found.high, found.p, found.corrected, found.significant) == (
        0,
        0,
        0,
        1,
        1,
        False,
    )


def test_a_resampled_p_is_never_zero():
    assert sign_flip(np.ones((1, 200)))[0] == 1 / 10_000


def test_one_image_is_not_enough():
    (found,) = differences(np.array([90.0]), np.array([[10.0]]), np.array([3.0]))
    assert found.p == 1
    assert all(map(math.isnan, (found.low, found.high, found.detectable)))


def test_the_test_keeps_its_level_on_clustered_questions():
    """Questions of an image share its difficulty.

    Counted as independent, far more than 5 % would be called significant.
    """
    generator = np.random.default_rng(3)
    images, questions, trials = 60, 8, 600
    each = generator.normal(size=(trials, images, 1)) + generator.normal(
        size=(trials, images, questions)
    )
    clustered = sign_flip(each.sum(2)) < 0.05
    alone = stats.ttest_1samp(each.reshape(trials, -1), 0, axis=1).pvalue < 0.05
    assert 0.03 < clustered.mean() < 0.07
    assert alone.mean() > 0.3


def test_the_detectable_difference_is_found_four_times_of_five():
    generator = np.random.default_rng(4)
    images, trials = 80, 500
    counts = generator.integers(1, 6, images).astype(float)
    noise = generator.normal(size=(trials, images)) * 10 * counts
    (one,) = differences(noise[0], np.zeros((1, images)), counts)
    shifted = noise + one.detectable * counts
    found = sign_flip(shifted) < 0.05
    assert 0.7 < found.mean() < 0.9


def test_clustered_errors_are_the_usual_ones_where_every_image_has_one_example():
    values = drawn(5, 2, 40)
    assert standard_errors(values, np.ones(40)) == pytest.approx(stats.sem(values, axis=1))


def test_clustered_errors_are_those_of_statsmodels():
    """OLS of the difference of each question on a constant, clustered by image."""
    generator = np.random.default_rng(10)
    images = generator.integers(0, 30, 200)
    each = generator.normal(size=30)[images] + generator.normal(size=200) + 0.3
    fit = OLS(each, np.ones(200)).fit(cov_type="cluster", cov_kwds={"groups": images})
    sums, counts = np.bincount(images, each), np.bincount(images).astype(float)
    assert standard_errors(sums[None], counts) == pytest.approx(fit.bse)


def test_holm_is_that_of_statsmodels():
    p = np.random.default_rng(11).random(20) ** 4
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def drawn_again(sums: np.ndarray, examples: np.ndarray, seeds: int, images: int) -> float:
    """Return the variance of the mean if seeds, or images, are drawn again, made unbiased."""
    generator = np.random.default_rng(12)
    means = []
    for _ in range(4000):
        rows, columns = np.arange(len(sums)), np.arange(len(examples))
        if seeds:
            rows = generator.choice(rows, seeds)
        if images:
            columns = generator.choice(columns, images)
        means.append(sums[np.ix_(rows, columns)].mean(0).sum() / examples[columns].sum())
    many = seeds or images
    return float(np.var(means) * many / (many - 1))


def test_two_way_has_the_variance_of_seeds_and_images_drawn_again():
    seeds, images = 6, 50
    counts = np.random.default_rng(13).integers(1, 4, images).astype(float)
    sums = (drawn(14, seeds, 1) / 4 + drawn(15, images) + 0.4) * counts
    variance = drawn_again(sums, counts, seeds, 0) + drawn_again(sums, counts, 0, images)
    parts = drawn_again(sums, counts, seeds, 0), image_errors(sums[None], counts)[0] ** 2
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (seeds - 1) + parts[1] ** 2 / (images - 1))
    mean = sums.mean(0).sum() / counts.sum()
    expected = 2 * stats.t.sf(mean / math.sqrt(variance), freedom)
    assert two_way(sums[None], counts)[0] == pytest.approx(expected, rel=0.1)


def test_two_way_is_scipys_t_test_over_seeds_where_images_do_not_scatter():
    by_seed = drawn(16, 2, 5) + 0.8
    p = two_way(by_seed[..., None] * np.ones(30), np.ones(30))
    assert p == pytest.approx(stats.ttest_1samp(by_seed, 0, axis=1).pvalue)


def test_two_way_is_scipys_t_test_over_images_where_seeds_do_not_scatter():
    by_image = drawn(17, 2, 40) + 0.2
    p = two_way(np.repeat(by_image[:, None], 3, 1), np.ones(40))
    assert p == pytest.approx(stats.ttest_1samp(by_image, 0, axis=1).pvalue)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("scatter", [(1.0, 0.1), (0.1, 5.0), (0.5, 5.0), (0.0, 0.0)])
def test_two_way_keeps_its_level_for_both_kinds_of_scatter(seeds, scatter):
    """A test over images alone rejects far too often if seeds scatter, and the reverse."""
    trials, images = 2000, 60
    over_seeds, over_images = scatter
    generator = np.random.default_rng(18)
    sums = generator.normal(size=(trials, seeds, images))
    sums += over_seeds * generator.normal(size=(trials, seeds, 1))
    sums += over_images * generator.normal(size=(trials, 1, images))
    assert 0.03 < (two_way(sums, np.ones(images)) < 0.05).mean() < 0.07
    by_images = stats.ttest_1samp(sums.mean(1), 0, axis=1).pvalue < 0.05
    by_seeds = stats.ttest_1samp(sums.mean(2), 0, axis=1).pvalue < 0.05
    if over_seeds == 1.0:
        assert by_images.mean() > 0.4
    if over_images == 5.0:
        assert by_seeds.mean() > 0.12


def test_two_way_finds_what_stands_out_of_both_kinds_of_scatter():
    generator = np.random.default_rng(19)
    sums = generator.normal(size=(300, 5, 60)) + 0.4 * generator.normal(size=(300, 5, 1))
    assert (two_way(sums + 1.0, np.ones(60)) < 0.05).mean() > 0.9


def test_two_way_does_not_depend_on_scale_or_sign():
    sums, counts = drawn(20, 2, 3, 90), np.arange(1.0, 91.0)
    p = two_way(sums, counts)
    assert two_way(-8 * sums, counts) == pytest.approx(p)
    assert two_way(2 * sums, 2 * counts) == pytest.approx(p)


def test_two_way_without_scatter():
    ones = np.ones((1, 3, 40))
    assert two_way(0 * ones, np.ones(40))[0] == 1
    assert two_way(ones, np.ones(40))[0] == 0
    assert two_way(ones[..., :1], np.ones(1))[0] == 1
    assert np.isnan(image_errors(ones[..., :1], np.ones(1))[0])


@given(st.integers(1, 5))
def test_repeated_questions_add_no_information(times):
    a, b, counts = drawn(6, 30) + 1, drawn(7, 2, 30), np.arange(1.0, 31.0)
    once, again = differences(a, b, counts), differences(times * a, times * b, times * counts)
    for x, y in zip(once, again, strict=True):
        assert (x.value, x.low, x.p, x.detectable) == pytest.approx(
            (y.value, y.low, y.p, y.detectable)
        )


def test_the_interval_is_scipys_for_one_example_an_image():
    a, b = drawn(8, 25) + 2, drawn(9, 1, 25)
    (found,) = differences(a, b, np.ones(25))
    expected = stats.ttest_rel(a, b[0]).confidence_interval()
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_holm_equals_that_of_r():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )  # R: p.adjust(c(...), "holm")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.5))
def test_holm_rejects_the_same_as_its_steps(p, level):
    rejected: set[int] = set()
    for step, i in enumerate(sorted(range(len(p)), key=lambda i: (p[i], i))):
        if p[i] * (len(p) - step) > level:
            break
        rejected.add(i)
    assert {i for i, corrected in enumerate(holm(p)) if corrected <= level} == rejected


def test_interval_over_seeds_is_scipys():
    values = [70.0, 72.5, 69.0]
    assert seed_interval(values) == pytest.approx(
        tuple(stats.ttest_1samp(values, 0).confidence_interval())
    )
    assert seed_interval([1.0]) is None


def test_tied_methods_share_a_rank():
    assert ranks([80.0, 79.0, 81.0, 79.0, 70.0], [True, False, True, False, False]) == [
        1,
        3,
        1,
        3,
        5,
    ]
    assert ranks([80.0, 81.0, 79.5], [False, True, True]) == [
        3,
        1,
        1,
    ]  # a noisy method may be tied although a better one is not


def test_a_difference_of_images_with_several_examples():
    """Worked by hand: the mean is 7/6, and 2.5, 5/6 and -10/3 remain of the sums."""
    a, b, examples = np.array([7.0, 3.0, 0.0]), np.ones((1, 3)), np.array([3.0, 1.0, 2.0])
    (found,) = differences(a, b, examples)
    error = math.sqrt((2.5**2 + (5 / 6) ** 2 + (10 / 3) ** 2) * 3 / 2) / 6
    assert standard_errors(np.array([[6.0, 2.0, -1.0]]), examples) == pytest.approx(error)
    # Student's t with 2 degrees of freedom: 4.3027 leaves 5 % outside, 1.0607 leaves 40 %.
    assert found.value == pytest.approx(7 / 6)
    assert (found.low, found.high) == pytest.approx(
        (7 / 6 - 4.3026527 * error, 7 / 6 + 4.3026527 * error)
    )
    assert found.detectable == pytest.approx((4.3026527 + 1.0606602) * error)


def test_two_values_have_an_interval():
    """Student's t with one degree of freedom leaves 5 % outside 12.706 errors."""
    assert seed_interval([0.0, 2.0]) == pytest.approx((1 - 12.7062, 1 + 12.7062), rel=1e-5)
