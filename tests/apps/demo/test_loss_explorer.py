import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from apps.demo.loss_explorer import TABLE_AT, explain, explorer_html, loss_lines, redrawn_html
from finetune.errors import UsageError

SETTINGS = [
    (1.5, 1.0, 2.0),
    (0.0, 1.0, 0.0),
    (0.0, 0.5, 0.5),
    (2.0, 0.0, 5.0),
    (0.2, 3.0, 1.0),
    (5.0, 5.0, 5.0),
]


@pytest.mark.parametrize(("alpha", "beta", "gamma"), SETTINGS)
def test_the_closed_forms_are_the_toolkits_losses(alpha, beta, gamma):
    from core_losses import posterior_curves

    p = np.concatenate([np.linspace(0.001, 0.999, 999), [1e-6, 1 - 1e-6]])
    ours = {line.name: line for line in loss_lines(p, alpha=alpha, beta=beta, gamma=gamma)}
    theirs = [
        curve for curve in posterior_curves(p, alpha=alpha, beta=beta, gamma=gamma) if curve.name in ours
    ]
    assert [curve.name for curve in theirs] == ["cel", "nllr", "crl", "focal"]
    for curve in theirs:
        np.testing.assert_allclose(ours[curve.name].loss, curve.loss, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(ours[curve.name].gradient, curve.gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("alpha", "beta", "gamma"), SETTINGS)
def test_the_gradient_is_the_slope_of_the_loss_in_the_logit(alpha, beta, gamma):
    m, step = np.linspace(-6, 6, 25), 1e-5
    p = [1 / (1 + np.exp(-(m + shift))) for shift in (-step, 0, step)]
    before, here, after = (loss_lines(values, alpha=alpha, beta=beta, gamma=gamma) for values in p)
    for low, line, high in zip(before, here, after, strict=True):
        np.testing.assert_allclose(line.gradient, (high.loss - low.loss) / (2 * step), atol=1e-6)


def test_crl_by_hand():
    crl = loss_lines(np.array([0.25]))[2]
    assert crl.loss[0] == pytest.approx(math.log(1.5) + math.log(6))  # docs/paper.md
    assert crl.gradient[0] == pytest.approx(-0.75 * (1 + 0.25 / 2.25))


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
@pytest.mark.parametrize("value", [-0.1, 5.1, float("nan"), float("inf"), "1", None, True, "<b>"])
def test_settings_out_of_range_are_refused_in_words(name, value):
    with pytest.raises(UsageError, match=f"{name} must be a number from 0 to 5"):
        explorer_html(**{name: value})


@pytest.mark.parametrize(("alpha", "beta", "gamma"), SETTINGS)
def test_the_fragment_is_well_formed_and_tells_its_charts_in_words(alpha, beta, gamma):
    text = explorer_html(alpha, beta, gamma)
    assert "nan" not in text
    assert "inf" not in text
    for entity in ("alpha", "beta", "gamma", "rsquo", "frac12", "minus"):
        text = text.replace(f"&{entity};", "x")
    root = ET.fromstring(text)
    charts = root.findall(".//svg")
    assert len(charts) == 2
    ids = [item.get("id") for item in root.iter() if item.get("id")]
    assert len(ids) == len(set(ids)) == 6
    for chart in charts:
        assert chart.get("role") == "img"
        named = {item.get("id") for item in chart if item.tag in ("title", "desc")}
        assert set(chart.get("aria-labelledby").split()) == named
        assert {item.get("class") for item in chart.iter("polyline")} == {
            f"line {name}" for name in ("cel", "nllr", "crl", "focal")
        }
    assert {cell.get("scope") for cell in root.iter("th")} == {"row", "col"}


def test_nllr_runs_flat_beyond_its_clamp():
    m = np.array([-20.0, -16.2, -16.0, 16.0, 16.2])
    nllr = loss_lines(1 / (1 + np.exp(-m)))[1]
    np.testing.assert_allclose(nllr.loss, [16.1181, 16.1181, 16.0, -16.0, -16.1181], atol=1e-4)
    assert nllr.gradient.tolist() == [0, 0, -1, -1, 0]


def test_the_style_stays_in_the_fragment():
    style = re.search(r"<style>(.*?)</style>", explorer_html(), re.DOTALL).group(1)
    plain = re.sub(r"@media \([^)]*\)\{(.*?\})\}", r"\1", style, flags=re.DOTALL)
    selectors = [part.strip() for rule in re.findall(r"([^{}]+)\{", plain) for part in rule.split(",")]
    assert len(selectors) > 20
    assert [part for part in selectors if not part.startswith((".crl-loss", ".dark .crl-loss"))] == []


def test_the_tables_hold_the_lines_numbers():
    root = explorer_html()
    for line in loss_lines(np.array(TABLE_AT)):
        for value in (*line.loss, *-line.gradient):
            shown = f"{abs(value):.3f}"
            sign = "\N{MINUS SIGN}" if value < 0 and float(shown) else ""
            assert f">{sign}{shown}</td>" in root


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((1.5, 1.0, 2.0), "lowered by log(1 + 1/&alpha;) = 0.511, plus log &alpha; = 0.405"),
        ((1.5, 1.0, 2.0), "gradient is 1 to 1.67 times cross-entropy"),
        ((0.5, 1.0, 2.0), "log &alpha; = \N{MINUS SIGN}0.693"),
        ((1.0, 2.0, 2.0), "plus a term for the competitors, 2 log(1 + 1 &minus; p<sub>c</sub>)"),
        ((1.5, 0.0, 2.0), "is cross-entropy: without"),
        ((0.0, 1.0, 2.0), "is NLLR, exact, itself"),
        ((0.0, 0.5, 2.0), "never vanishes: 0.5"),
        ((1.5, 1.0, 0.0), "(&gamma; = 0) is cross-entropy"),
        ((1.5, 1.0, 2.0), "its gradient is 0.029 times"),
        ((1.5, 1.0, 2.0), "gradient does not fade"),
        ((1.5, 1.0, 2.0), "within 1e-7 of 0 or 1"),
        ((1.5, 1.0, 2.0), "flat, at 16.1 above and &minus;16.1 below"),
    ],
)
def test_the_sentences_say_what_changes(settings, words):
    assert words in " ".join(explain(*settings))


def test_crl_at_beta_1_is_what_the_sentence_says():
    p = np.linspace(0.01, 0.99, 99)
    lowered = 1 / (1 + np.exp(math.log1p(1 / 1.5) - np.log(p / (1 - p))))
    np.testing.assert_allclose(loss_lines(p)[2].loss, math.log(1.5) - np.log(lowered))


@pytest.mark.parametrize("chart", ["value", "push"])
@pytest.mark.parametrize(
    ("alpha", "beta", "gamma"), [*SETTINGS, (5.0, 4.0, 2.0), (0.0, 5.0, 2.0), (0.05, 5.0, 0)]
)
def test_the_scales_hold_every_line(chart, alpha, beta, gamma):
    drawn = explorer_html(alpha, beta, gamma).split(f'id="crl-loss-{chart}-clip"')[1].split("</svg>")[0]
    heights = [
        float(pair.split(",")[1]) for line in re.findall(r'points="([^"]*)"', drawn) for pair in line.split()
    ]
    assert min(heights) >= 33.9  # nothing is cut off at the top
    assert max(heights) <= 272.1


def test_the_description_of_the_pushes_is_true_at_gamma_0():
    assert "focal loss&#x27;s is below it for images predicted with confidence" in explorer_html(gamma=0.5)
    assert "focal loss&#x27;s is the same as cross-entropy&#x27;s" in explorer_html(gamma=0.0)


@pytest.mark.parametrize(
    ("given", "drawn", "words"),
    [
        ((5, 1, 2), (5, 1, 2), []),
        ((9, 1, 2), (5, 1, 2), ["alpha goes from 0 to 5: the curves are drawn for 5, not 9."]),
        ((1.5, -1, 2), (1.5, 0, 2), ["beta goes from 0 to 5: the curves are drawn for 0, not -1."]),
        ((1, 1, None), (1, 1, 2), ["gamma is not a number: the curves are drawn for 2."]),
        (
            ("", float("nan"), True),
            (1.5, 1, 2),
            [f"{name} is not a number" for name in ("alpha", "beta", "gamma")],
        ),
        (("<b>", 10**400, 0), (1.5, 5, 0), ["alpha is not a number", "beta goes from"]),
    ],
)
def test_what_stands_in_the_fields_is_drawn_or_mended_in_words(given, drawn, words):
    html = redrawn_html(*given)
    assert html.endswith(explorer_html(*drawn))
    told = re.findall('<p class="crl-warning">(.*?)</p>', html)
    assert len(told) == len(words)
    assert all(part in sentence for part, sentence in zip(words, told, strict=True))
