"""The demo's loss explorer: each loss's value and gradient magnitude, for settings of one's own.

The curves are `core_losses.closed_forms`, so that no torch is needed; a loss that was added to the table
without such a form is drawn with its defaults, where there is torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from apps.demo.line_chart import Chart, ChartLine, scale
from core_losses import LOSSES
from core_losses.closed_forms import CLOSED_FORMS, PUBLISHED_CLAMP
from finetune.errors import UsageError

MAXIMA = {"alpha": 5.0, "beta": 5.0, "gamma": 5.0}
START = {"alpha": 1.5, "beta": 1.0, "gamma": 2.0}
OTHER = "other"  # the style of a loss that was added
TABLE_AT = (0.01, 0.1, 0.5, 0.9, 0.99)
_CLAMP = f"{PUBLISHED_CLAMP:g}".replace("e-0", "e-")
_FLAT = f"{math.log1p(-PUBLISHED_CLAMP) - math.log(PUBLISHED_CLAMP):.1f}"
_GRID = np.linspace(0.005, 0.995, 199)
_P_TICKS = (0, 0.25, 0.5, 0.75, 1)

# Okabe and Ito's colours, as in the figure of `crl curves`; orange is darker in light mode, blue lighter in
# dark mode. So every line has a contrast of at least 3:1 with its background. Dashes distinguish the lines
# without colour.
_STYLE = """
.crl-loss{--cel:currentColor;--nllr:#bf7a00;--crl:#d55e00;--focal:#0072b2;--other:#008a65}
.dark .crl-loss{--nllr:#e69f00;--focal:#56b4e9;--other:#2fc79a}
.crl-loss .charts{display:flex;flex-wrap:wrap;gap:1.5rem 2.5rem}
.crl-loss figure{flex:1 1 20rem;max-width:34rem;min-width:0;margin:0}
.crl-loss svg{display:block;width:100%;height:auto;overflow:visible}
.crl-loss svg text{fill:currentColor;font-family:inherit;font-size:12.5px}
.crl-loss svg .heading{font-size:14px;font-weight:600}
.crl-loss svg .label{font-weight:600}
.crl-loss svg .tick{font-size:11.5px;opacity:.8}
.crl-loss svg .grid{stroke:currentColor;stroke-opacity:.13}
.crl-loss svg .zero{stroke:currentColor;stroke-opacity:.55}
.crl-loss svg .line{fill:none;stroke-width:2.2}
.crl-loss svg .line.leader{stroke-width:1.2;stroke-dasharray:none}
.crl-loss svg .cel{stroke:var(--cel)}
.crl-loss svg .nllr{stroke:var(--nllr);stroke-dasharray:9 3}
.crl-loss svg .crl{stroke:var(--crl);stroke-width:3}
.crl-loss svg .focal{stroke:var(--focal);stroke-dasharray:9 3 2 3}
.crl-loss svg .other{stroke:var(--other);stroke-dasharray:2 3}
.crl-loss table{width:100%;margin:.5rem 0 0;border-collapse:collapse;font-size:.85rem;
font-variant-numeric:tabular-nums}
.crl-loss caption{text-align:left;padding:.25rem 0;opacity:.8}
.crl-loss th,.crl-loss td{padding:.2rem .4rem;text-align:right;border-bottom:1px solid;
border-color:color-mix(in srgb,currentColor 20%,transparent)}
.crl-loss thead th{font-weight:600}
.crl-loss tbody th{font-weight:400}
.crl-loss ul{margin:1rem 0 0;padding-left:1.2rem;max-width:70rem;list-style:disc}
.crl-loss li{margin:.3rem 0;line-height:1.5}
@media (max-width:640px){.crl-loss svg text{font-size:14px}.crl-loss svg .tick{font-size:13px}
.crl-loss svg .heading{font-size:16px}}
"""


@dataclass(frozen=True)
class LossLine:
    """One loss against the true class's posterior: `loss` in nats and `gradient` = dL/dz_c, at each `p`."""

    name: str
    label: str
    p: np.ndarray
    loss: np.ndarray
    gradient: np.ndarray


def loss_lines(p: np.ndarray, *, alpha: float = 1.5, beta: float = 1.0, gamma: float = 2.0) -> list[LossLine]:
    """Return cross-entropy, NLLR, CRL and focal loss at posteriors `p`, each strictly between 0 and 1.

    They are the losses that these settings can set; what was added to the table comes after them. With
    q = 1 - p_c, the probability that the competitors hold together:

        CE     -log p                          gradient  -q
        NLLR   log(q / p)                                -1, and 0 where p or q is below 1e-7
        CRL    beta log(alpha + q) - log p               -q (1 + beta p / (alpha + q))
        focal  -q^gamma log p                            -q^gamma (q - gamma p log p)

    Args:
        p: float (N,), strictly between 0 and 1.
        alpha, beta: the competing ratio loss's settings (the paper's), 0 to 5.
        gamma: the focal loss's focus, 0 to 5.

    Raises:
        UsageError: for a setting outside its range.

    >>> [float(line.gradient[0].round(3)) for line in loss_lines(np.array([0.5]))]
    [-0.5, -1.0, -0.625, -0.298]
    """
    settings = {"alpha": alpha, "beta": beta, "gamma": gamma}
    check_settings(**settings)
    lines = []
    for name in LOSSES:
        form = CLOSED_FORMS.get(name)
        if form is not None and form.defaults.keys() - {"clamp"} <= settings.keys():
            own = {option: settings[option] for option in form.defaults if option in settings}
            lines.append(LossLine(name, form.title, p, *form.of(p, **own)))
    return lines + _further_lines(p)


def _further_lines(p: np.ndarray) -> list[LossLine]:
    """Return the losses that have no closed form here, with their defaults; none where there is no torch."""
    lines = []
    for name in LOSSES:
        if name in CLOSED_FORMS:
            continue
        try:
            from core_losses import posterior_curves
        except ImportError:
            return []
        if LOSSES[name].line is not None:
            [curve] = posterior_curves(p, [(name, {})])
            lines.append(LossLine(OTHER, LOSSES[name].title, p, curve.loss, curve.gradient))
    return lines


def check_settings(**settings: float) -> None:
    """Refuse a setting that is not a number from 0 to its maximum, in words for the page's visitor."""
    for name, value in settings.items():
        known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not known or not 0 <= value <= MAXIMA[name]:
            raise UsageError(f"{name} must be a number from 0 to {MAXIMA[name]:g}, got {str(value)[:40]}")


def explorer_html(alpha: float = 1.5, beta: float = 1.0, gamma: float = 2.0) -> str:
    """Return the explorer for these settings: two charts, a table under each, and what to see in them.

    The fragment brings its own style, takes the page's colour of text, and fits a telephone's width.
    Raises UsageError for a setting outside its range.
    """
    lines = loss_lines(_GRID, alpha=alpha, beta=beta, gamma=gamma)
    table = loss_lines(np.array(TABLE_AT), alpha=alpha, beta=beta, gamma=gamma)
    figures = _figure(_loss_chart(lines, alpha, beta), lines, table, _loss, "Loss, in nats")
    figures += _figure(_push_chart(lines, gamma), lines, table, _push, "Gradient on the true class's logit")
    items = "".join(f"<li>{sentence}</li>" for sentence in explain(alpha, beta, gamma))
    return (
        f'<div class="crl-loss"><style>{_STYLE}</style><div class="charts">{figures}</div>'
        f"<ul>{items}</ul></div>"
    )


def redrawn_html(alpha: object, beta: object, gamma: object) -> str:
    """Return the explorer for whatever is in the page's fields, with a sentence on each that was replaced.

    A number outside its range is drawn at the range's end; an empty field, or no number, at its start.
    """
    settings, notices = {}, []
    for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
        settings[name], notice = _nearest(name, value)
        notices += [f'<p class="crl-warning">{notice}</p>'] * bool(notice)
    told = f'<div role="status">{"".join(notices)}</div>' if notices else ""
    return told + explorer_html(**settings)


def _nearest(name: str, value: object) -> tuple[float, str]:
    """Return the setting to draw for a field's value, and what is said of it where they differ."""
    most = MAXIMA[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # NaN
        return START[name], f"{name} is not a number: the curves are drawn for {START[name]:g}."
    drawn = float(min(max(value, 0.0), most))
    if drawn == value:
        return drawn, ""
    shown = str(value)[:20]
    return drawn, f"{name} goes from 0 to {most:g}: the curves are drawn for {drawn:g}, not {shown}."


def explain(alpha: float, beta: float, gamma: float) -> list[str]:
    """Return what the curves show at these settings, one HTML sentence or two for each loss."""
    return [
        _explain_crl(alpha, beta),
        "<b>NLLR</b>&rsquo;s gradient does not fade: 1 for every image, however confident the network is, "
        f"until p<sub>c</sub> is within {_CLAMP} of 0 or 1. There, outside these charts, it is clamped as "
        f"published: the gradient is 0 and the loss flat, at {_FLAT} above and &minus;{_FLAT} below. Without "
        "the clamp, as NLLR, exact, it has no lowest value. It is below 0 wherever p<sub>c</sub> is above "
        "&frac12;.",
        _explain_focal(gamma),
        "Loss values of different losses have different floors and scales: compare accuracies, never these.",
    ]


def _explain_crl(alpha: float, beta: float) -> str:
    start = f"<b>CRL</b> (&alpha; = {alpha:g}, &beta; = {beta:g})"
    if beta == 0:
        return f"{start} is cross-entropy: without &beta; the competitors&rsquo; term is gone."
    if alpha == 0:
        twin = (
            "is NLLR, exact, itself"
            if beta == 1
            else f"never vanishes: {beta:g} even where p<sub>c</sub> is 1"
        )
        return f"{start} {twin}; with &alpha; = 0 its loss has no lowest value."
    margin, most = math.log1p(1 / alpha), 1 + beta / alpha
    factor = (
        f"Its gradient is 1 to {most:.3g} times cross-entropy's, larger where the network is more confident."
    )
    if beta != 1:
        term = f"{beta:g} log({alpha:g} + 1 &minus; p<sub>c</sub>)"
        return f"{start} is cross-entropy plus a term for the competitors, {term}. {factor}"
    return (
        f"{start} is cross-entropy with the true class&rsquo;s logit lowered by log(1 + 1/&alpha;) = "
        f"{margin:.3f}, plus log &alpha; = {_signed(math.log(alpha))}, which no training removes. {factor}"
    )


def _explain_focal(gamma: float) -> str:
    start = f"<b>Focal</b> loss (&gamma; = {gamma:g})"
    if gamma == 0:
        return f"{start} is cross-entropy."
    cross_entropy, _, _, focal = loss_lines(np.array([0.9]), gamma=gamma)[:4]
    ratio = float(focal.gradient[0] / cross_entropy.gradient[0])
    return (
        f"{start} weights down what is already correct: at p<sub>c</sub> = 0.9 its gradient is {ratio:.2g} "
        "times cross-entropy's."
    )


def _loss(line: LossLine) -> np.ndarray:
    return line.loss


def _push(line: LossLine) -> np.ndarray:
    return -line.gradient


def _loss_chart(lines: Sequence[LossLine], alpha: float, beta: float) -> Chart:
    values = np.concatenate([_loss(line) for line in lines])
    bounded = alpha > 0 or beta == 0
    end = f"CRL ends at {beta * math.log(alpha or 1):.3f}" if bounded else "CRL falls without end"
    return Chart(
        "crl-loss-value",
        "What each loss charges",
        "Every loss falls as the posterior of the true class grows. Cross-entropy and focal loss end at 0, "
        f"{end}, NLLR at -{_FLAT}, where its clamp begins. The table below has the numbers.",
        "p<tspan dy='3' font-size='9'>c</tspan><tspan dy='-3'>, posterior of the true class</tspan>",
        "loss L (nats)",
        _P_TICKS,
        scale(float(values.min()), float(values.max())),
    )


def _push_chart(lines: Sequence[LossLine], gamma: float) -> Chart:
    focal = "is below it for images predicted with confidence" if gamma else "is the same as cross-entropy's"
    highest = max(float(_push(line).max()) for line in lines)
    return Chart(
        "crl-loss-push",
        "Gradient magnitude on the true class\N{RIGHT SINGLE QUOTATION MARK}s logit",
        "The negative gradient of each loss. Cross-entropy's falls in a straight line from 1 to 0, NLLR's "
        f"stays at 1 until its clamp begins, outside this chart, CRL's is never below "
        f"cross-entropy's, focal loss's {focal}. The table below has the numbers.",
        "p<tspan dy='3' font-size='9'>c</tspan><tspan dy='-3'>, posterior of the true class</tspan>",
        "\N{MINUS SIGN}\N{PARTIAL DIFFERENTIAL}L/\N{PARTIAL DIFFERENTIAL}z"
        "<tspan dy='3' font-size='9'>c</tspan><tspan dy='-3'> (nats per unit of logit)</tspan>",
        _P_TICKS,
        scale(0.0, max(1.0, highest) * 1.04),
    )


def _figure(
    chart: Chart,
    lines: Sequence[LossLine],
    table: Sequence[LossLine],
    value: Callable[[LossLine], np.ndarray],
    caption: str,
) -> str:
    drawn = chart.draw([ChartLine(line.name, line.label, line.p, value(line)) for line in lines])
    header = "".join(f'<th scope="col">{line.label}</th>' for line in table)
    rows = "".join(
        f'<tr><th scope="row">{p:g}</th>'
        + "".join(f"<td>{_signed(float(value(line)[index]))}</td>" for line in table)
        + "</tr>"
        for index, p in enumerate(TABLE_AT)
    )
    return (
        f"<figure>{drawn}<table><caption>{caption}</caption><thead><tr>"
        f'<th scope="col">p<sub>c</sub></th>{header}</tr></thead><tbody>{rows}</tbody></table></figure>'
    )


def _signed(value: float) -> str:
    """Return a number with three decimals and a true minus sign, -0.000 as 0.000."""
    text = f"{value:.3f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")
