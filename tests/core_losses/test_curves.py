"""The curves: hand-worked points, limits, and the printed gradient that they must not follow."""

from __future__ import annotations

import numpy as np
import pytest

from core_losses import posterior_curves, posterior_grid


def _by_name(p: list[float], **settings: float) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    curves = posterior_curves(np.array(p), **settings)
    return {curve.name: (curve.loss, curve.gradient, curve.step) for curve in curves}


def test_values_at_one_half_are_those_worked_by_hand() -> None:
    curves = _by_name([0.5])
    log2 = 0.6931471805599453
    expected = {
        "cel": log2,
        "nllr": 0.0,
        "crl": np.log(2.0) + log2,  # alpha + 1 - p = 2
        "focal": 0.25 * log2,
        "tce": ((1 + log2) ** 0.2 - 1) / 0.2,
    }
    for name, value in expected.items():
        assert curves[name][0][0] == pytest.approx(value, abs=1e-12), name


def test_gradient_is_the_derivative_of_the_loss_through_p() -> None:
    p, step = np.linspace(0.02, 0.98, 49), 1e-6
    for low, middle, high in zip(
        posterior_curves(p - step), posterior_curves(p), posterior_curves(p + step), strict=True
    ):
        slope_in_p = (high.loss - low.loss) / (2 * step)
        np.testing.assert_allclose(middle.gradient, slope_in_p * p * (1 - p), rtol=1e-6, atol=1e-9)


def test_crl_step_grows_from_one_to_one_plus_beta_over_alpha() -> None:
    step = _by_name([1e-9, 0.25, 0.5, 0.75, 1 - 1e-9], alpha=1.5, beta=1.0)["crl"][2]
    assert (np.diff(step) > 0).all()
    assert step[0] == pytest.approx(1.0)
    assert step[-1] == pytest.approx(1 + 1 / 1.5)


def test_printed_factor_of_eq_14_is_not_the_step() -> None:
    p = posterior_grid(9)
    step = posterior_curves(p, alpha=1.5, beta=1.0)[2].step
    np.testing.assert_allclose(step, 1 + p / (2.5 - p), rtol=1e-12)
    assert (np.abs(step - (1 - p / (2.5 - p))) > 0.05).all()


def test_nllr_pushes_equally_at_every_posterior() -> None:
    gradient = _by_name([0.01, 0.5, 0.99])["nllr"][1]
    assert gradient.tolist() == [-1.0, -1.0, -1.0]


def test_posteriors_outside_the_open_interval_are_refused() -> None:
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        posterior_curves(np.array([0.5, 1.0]))
    with pytest.raises(ValueError, match="points"):
        posterior_grid(0)
