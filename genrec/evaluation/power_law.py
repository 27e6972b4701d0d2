"""Loss against compute: the curve a + b * C^-c through measured points."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genrec.errors import DataError

LEAST_POINTS = 4
EXPONENTS = (0.01, 3.0)
GRID = 61


@dataclass(frozen=True)
class PowerLaw:
    """A fitted curve.

    Attributes:
        a: What no compute takes away, at least 0.
        b: Scale, above 0.
        c: Exponent.
        error: Root of the mean squared distance of the points from the curve, in the loss's unit.
        c_range: Smallest and largest exponent when one point after the other is left out; None with LEAST_POINTS.
        at_edge: Whether the exponent is as far as it was looked for: the points do not determine it.
    """

    a: float
    b: float
    c: float
    error: float
    c_range: tuple[float, float] | None
    at_edge: bool

    def at(self, compute: float) -> float:
        """The loss at this compute."""
        return float(self.a + self.b * compute**-self.c)


def fit_power_law(compute: Sequence[float], loss: Sequence[float]) -> PowerLaw:
    """Least squares of ``a + b * C^-c`` with a, b >= 0 (Hoffmann et al. 2022, approach 3, for one variable).

    For a given c the best a and b are found exactly (non-negative least squares), so that only c is searched.

    Args:
        compute: C of every point, above 0.
        loss: As many.

    Raises:
        DataError: If fewer than LEAST_POINTS different C are there, a value is no number, or the loss does not fall.
    """
    x, y = np.asarray(compute, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    if len(np.unique(x)) < LEAST_POINTS:
        raise DataError(
            f"{len(np.unique(x))} sizes are too few to fit a curve with three unknowns",
            expected=f"at least {LEAST_POINTS} different amounts of compute",
            fix="train more sizes",
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all() and (x > 0).all()):
        raise DataError("the points to fit are no numbers", expected="finite losses, compute above 0")
    middle = float(np.exp(np.log(x).mean()))
    a, b, c = _best(x / middle, y)
    if b <= 1e-9 * max(abs(float(y.mean())), 1e-300):
        raise DataError(
            "the loss does not fall with compute", expected="a falling curve", fix="train longer, or other sizes"
        )
    low, high = EXPONENTS
    others = [_best(x[keep] / middle, y[keep])[2] for keep in _without_each(x)]
    return PowerLaw(
        a=a,
        b=b * middle**c,
        c=c,
        error=float(np.sqrt(np.mean((a + b * (x / middle) ** -c - y) ** 2))),
        c_range=(min(others), max(others)) if others else None,
        at_edge=c < low * 1.01 or c > high * 0.99,
    )


def _without_each(x: np.ndarray) -> list[np.ndarray]:
    """Masks that leave out all points of one compute, where enough others stay."""
    sizes = np.unique(x)
    return [x != size for size in sizes] if len(sizes) > LEAST_POINTS else []


def _best(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    from scipy.optimize import minimize_scalar

    low, high = np.log(EXPONENTS).tolist()
    grid = np.linspace(low, high, GRID)
    place = int(np.argmin([_solve(x, y, c)[2] for c in np.exp(grid)]))
    bounds = grid[max(place - 1, 0)], grid[min(place + 1, GRID - 1)]
    found = minimize_scalar(
        lambda log: _solve(x, y, np.exp(log))[2], bounds=bounds, method="bounded", options={"xatol": 1e-9}
    )
    c = float(np.exp(found.x))
    a, b, _ = _solve(x, y, c)
    return a, b, c


def _solve(x: np.ndarray, y: np.ndarray, c: float) -> tuple[float, float, float]:
    """The best a and b for this c, and what is left."""
    from scipy.optimize import nnls

    (a, b), rest = nnls(np.stack([np.ones_like(x), x**-c], axis=1), y)
    return float(a), float(b), float(rest)
