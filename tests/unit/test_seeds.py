"""How many seeds a comparison needs: the mathematics, and `vlpeft seeds`."""

import json
import math

import numpy as np
import pytest
from scipy.stats import chi2, nct, t

from vlpeft.results.statistics import significance
from vlpeft.results.statistics.paired import seed_interval
from vlpeft.results.statistics.power import (
    MOST,
    _power,
    seeds_needed,
    sign_flip_needs,
    upper_spread,
)
from vlpeft.results.statistics.seeds import _image_error


@pytest.mark.parametrize("n", [2, 3, 6, 40, 10_000])
@pytest.mark.parametrize("shift", [0.0, 0.7, 2.8, 5.9, 6.1, 12.0, 80.0])
def test_the_power_is_that_of_the_noncentral_t(n, shift) -> None:
    limit = t.ppf(0.975, n - 1)
    expected = nct.sf(limit, n - 1, shift) if shift else 0.025
    expected += nct.cdf(-limit, n - 1, shift) if 0 < shift < 6 else 0.025 * (shift == 0)
    if math.isnan(expected):  # scipy's own, of very large shifts
        expected = 1.0
    assert _power(shift, n) == pytest.approx(expected, abs=1e-9)


# Of the paired t-test with 80 % power at 5 %, two-sided, as tables and G*Power have them.
@pytest.mark.parametrize(("size", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_published_sample_sizes(size, seeds) -> None:
    assert seeds_needed(size, 1.0) == seeds
    assert seeds_needed(10 * size, 10.0) == seeds  # the unit does not matter


@pytest.mark.parametrize(("spread", "image_error"), [(0.3, 0.0), (1.0, 0.3), (2.0, 0.35), (8, 0.1)])
def test_one_seed_less_is_too_few(spread, image_error) -> None:
    n = seeds_needed(1.0, spread, image_error)
    powers = [_power(1 / math.hypot(spread / math.sqrt(k), image_error), k) for k in (n - 1, n)]
    assert n == 2 or powers[0] < 0.8
    assert powers[1] >= 0.8


def test_the_power_is_what_a_simulation_finds() -> None:
    """Of 4,000 comparisons with as many seeds as are needed, four in five find the difference."""
    n, spread = seeds_needed(1.0, 0.9), 0.9
    drawn = 1.0 + spread * np.random.default_rng(0).standard_normal((4000, n))
    found = [low > 0 or high < 0 for low, high in map(seed_interval, drawn)]
    assert 0.78 < np.mean(found) < 0.87
    assert n < 20


def test_images_bound_what_seeds_can_do() -> None:
    """1.96 + 0.84 standard errors are the smallest difference that is ever found."""
    assert seeds_needed(1.0, 0.0, 1 / 2.81) is not None
    assert seeds_needed(1.0, 0.0, 1 / 2.79) is None
    assert seeds_needed(1.0, 1000.0) is None  # more than MOST
    assert seeds_needed(1.0, 0.0) == 2
    assert seeds_needed(1.0, 1e-14) == 2
    assert seeds_needed(1.0, 30.0) < MOST


@pytest.mark.parametrize("seeds", [2, 5])
def test_noise_of_single_runs_is_no_error_over_images(seeds) -> None:
    """Two methods that answer at random differ by no image, so enough seeds show any difference.

    What differs from image to image with every seed stays: here 20 points up or down.
    """
    rng = np.random.default_rng(0)
    images, examples = 2000, np.ones(2000)

    def column(effect):
        draws = rng.random((2, seeds, images)) * 100
        draws[0] += effect
        by_seed = tuple(dict(enumerate(own)) for own in draws)
        values = tuple({s: sums.mean() for s, sums in own.items()} for own in by_seed)
        return significance.TestedColumn(("a", "b"), examples, values, by_seed)

    naive = math.sqrt(2 * 100**2 / 12 / seeds / images)
    assert _image_error(column(0.0), 0, 1) < naive / 2
    effect = 20.0 * rng.choice([-1, 1], images)
    found = _image_error(column(effect), 0, 1)
    assert found == pytest.approx(20 / math.sqrt(images), rel=0.3)


def test_one_image_has_no_error_over_images() -> None:
    sums = ({0: np.array([1.0]), 1: np.array([2.0])}, {0: np.array([3.0]), 1: np.array([5.0])})
    values = tuple({seed: float(own[seed].item()) for seed in own} for own in sums)
    assert (
        _image_error(significance.TestedColumn(("a", "b"), np.ones(1), values, sums), 0, 1) is None
    )


def test_the_upper_limit_of_a_spread() -> None:
    for n in (2, 5, 30):
        expected = 2.0 * math.sqrt((n - 1) / chi2.ppf(0.2, n - 1))
        assert upper_spread(2.0, n) == pytest.approx(expected)
    assert upper_spread(1.0, 2) == pytest.approx(3.947, abs=1e-3)


def test_a_sign_flip_needs_six() -> None:
    assert sign_flip_needs() == 6
    assert 2 / 2**6 < 0.05 < 2 / 2**5


def test_the_command(vlpeft) -> None:
    code, out, _ = vlpeft("seeds", "quickstart", "--measured", "--detect", "2", "--json")
    assert code == 0
    rows = json.loads(out)
    code, out, _ = vlpeft("table", "quickstart", "--measured", "--tidy", "--format", "json")
    cells = json.loads(out)
    columns = {(row["backbone"], row["task"], row["dataset"], row["metric"]) for row in rows}
    assert len(columns) > 4
    for column in columns:
        own = [row for row in rows if place(row) == column]
        methods = {row["method"] for row in own} | {row["other"] for row in own}
        assert len(own) == len(methods) * (len(methods) - 1) / 2
        for row in own[::17]:
            check(row, [cell for cell in cells if place(cell) == column])


def place(row) -> tuple:
    return row["backbone"], row["task"], row["dataset"], row["metric"]


def check(row, cells) -> None:
    """Compare a row with what its cells' values and times say."""
    values, seconds = {}, {}
    for cell in cells:
        if cell["state"] != "done":
            continue
        values.setdefault(cell["method"], {})[cell["seed"]] = cell["value"]
        taken = cell["train_seconds"] + cell["eval_seconds"]
        seconds.setdefault(cell["method"], []).append(taken)
    first, other = values[row["method"]], values[row["other"]]
    by_seed = [first[seed] - other[seed] for seed in first]
    assert row["n"] == len(by_seed) == 2
    assert row["difference"] == pytest.approx(np.mean(by_seed), abs=1e-3)
    assert row["spread"] == pytest.approx(np.std(by_seed, ddof=1), abs=1e-3)
    assert row["seeds"] == seeds_needed(2.0, row["spread"], row["image_error"])
    if row["seeds"] is None:
        assert row["hours"] is None
    else:
        both = np.mean(seconds[row["method"]]) + np.mean(seconds[row["other"]])
        assert row["hours"] == pytest.approx(max(0, row["seeds"] - 2) * both / 3600, rel=1e-3)


@pytest.mark.parametrize("points", ["0", "-1", "nan", "inf", "some"])
def test_differences_that_are_none(vlpeft, points) -> None:
    code, _, err = vlpeft("seeds", "quickstart", "--measured", "--detect", points)
    assert code == 2
    assert "argument --detect: must be" in err


def test_power_far_from_zero_is_a_number() -> None:
    """Where scipy's own tail is NaN. The value is that of the first tail alone."""
    expected = 1 - nct.cdf(t.ppf(0.975, 1), 1, 8.0)
    assert _power(8.0, 2) == pytest.approx(expected, abs=1e-9)
    assert seeds_needed(8.0, 1.0) == 3
