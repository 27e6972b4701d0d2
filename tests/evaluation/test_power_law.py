"""Curves whose a, b and c are known are found again; points that tell nothing are refused."""

import numpy as np
import pytest

from genrec.errors import DataError
from genrec.evaluation.power_law import fit_power_law

COMPUTE = np.geomspace(1e9, 1e13, 8)


@pytest.mark.parametrize(("a", "b", "c"), [(2.0, 50.0, 0.15), (0.0, 400.0, 0.3), (7.5, 3e4, 0.5)])
def test_a_known_curve_is_found_again(a, b, c):
    law = fit_power_law(COMPUTE, a + b * COMPUTE**-c)
    assert law.a == pytest.approx(a, rel=1e-3, abs=1e-3)
    assert law.b == pytest.approx(b, rel=2e-2)
    assert law.c == pytest.approx(c, rel=1e-3)
    assert law.error < 1e-4
    assert law.c_range == pytest.approx((c, c), rel=1e-2)
    assert law.at(3e11) == pytest.approx(a + b * 3e11**-c, rel=1e-4)
    assert not law.at_edge


def test_it_is_the_least_squares_solution_of_scipy():
    from scipy.optimize import curve_fit

    noise = np.random.default_rng(0).normal(0, 0.02, len(COMPUTE))
    loss = 3 + 60 * COMPUTE**-0.18 + noise
    law = fit_power_law(COMPUTE, loss)
    middle = np.exp(np.log(COMPUTE).mean())
    best, _ = curve_fit(lambda x, a, b, c: a + b * x**-c, COMPUTE / middle, loss, p0=(3, 0.5, 0.2))
    assert (law.a, law.b * middle**-law.c, law.c) == pytest.approx(tuple(best), rel=1e-3)
    assert law.c_range[0] < law.c < law.c_range[1]
    assert 0 < law.error < 0.04


def test_a_is_never_below_zero():
    law = fit_power_law(COMPUTE, 40 - np.log(COMPUTE))
    assert law.a == 0
    assert law.b > 0


def test_an_exponent_that_the_points_do_not_tell_is_marked():
    """A step: the steeper the curve, the better."""
    assert fit_power_law([1, 10, 100, 1000], [5.0, 1.0, 1.0, 1.0]).at_edge


def test_with_the_least_points_there_is_no_range():
    assert fit_power_law(COMPUTE[:4], 1 + COMPUTE[:4] ** -0.2).c_range is None


@pytest.mark.parametrize(
    ("compute", "loss", "what"),
    [
        ([1, 2, 3], [3, 2, 1], "3 sizes are too few"),
        ([1, 2, 3, 3, 3], [3, 2, 1, 1, 1], "3 sizes are too few"),
        ([1, 2, 3, 4], [1, 2, 3, 4], "does not fall"),
        ([1, 2, 3, 4], [2, 2, 2, 2], "does not fall"),
        ([0, 2, 3, 4], [4, 3, 2, 1], "are no numbers"),
        ([1, 2, 3, 4], [4, 3, np.nan, 1], "are no numbers"),
    ],
)
def test_points_that_tell_nothing_are_refused(compute, loss, what):
    with pytest.raises(DataError, match=what):
        fit_power_law(compute, loss)
