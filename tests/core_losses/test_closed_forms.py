"""The closed forms in p_c that need no torch: the losses' own values, gradients and defaults."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from core_losses import LOSSES, posterior_curves
from core_losses.closed_forms import CLOSED_FORMS

P = np.concatenate([np.linspace(0.001, 0.999, 999), [1e-6, 1 - 1e-6]])
SETTINGS = [
    {},
    {"alpha": 0.0, "beta": 1.0, "gamma": 0.0, "a": 0.0},
    {"alpha": 0.7, "beta": 0.3, "clamp": 0.01},
    {"clamp": 0.0},
    {"alpha": 2.0, "beta": 0.0, "gamma": 5.0, "a": 1.0},
    {"alpha": 0.2, "beta": 3.0, "gamma": 0.5, "a": 3.0},
]


@pytest.mark.parametrize("name", [name for name, form in CLOSED_FORMS.items() if form is not None])
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_closed_form_is_the_losss_own_curve(name: str, settings: dict[str, float]) -> None:
    form = CLOSED_FORMS[name]
    assert form is not None
    own = {key: value for key, value in settings.items() if key in LOSSES[name].own_options()}
    [curve] = posterior_curves(P, [(name, own)])
    loss, gradient = form.of(P, **own)
    np.testing.assert_allclose(loss, curve.loss, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(gradient, curve.gradient, rtol=1e-6, atol=1e-9)


def test_titles_and_defaults_are_those_of_the_classes_and_the_others_have_no_curve() -> None:
    for name, form in CLOSED_FORMS.items():
        loss = LOSSES[name]
        if form is None:
            assert loss.line is None
            continue
        numbers = {key: value for key, value in loss.own_options().items() if value is not None}
        assert (form.title, form.defaults) == (loss.title, numbers)


def test_names_and_closed_forms_need_no_torch() -> None:
    code = "import sys, core_losses.closed_forms; from core_losses import LOSSES; "
    code += "print(*LOSSES, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [*LOSSES, "False"]
