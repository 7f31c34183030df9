"""How the heat map folds: the widths at which each layout begins, and what it needs in the table."""

from __future__ import annotations

import re

import numpy as np

from apps.heatmap.heatmap import HeatMap, heat_map
from apps.heatmap.html import to_html, to_html_page
from apps.heatmap.narrow import fits_in_lines, layout_class, layout_rules

GROUPS = ["0-2", "4-6", "8-12", "15-20", "25-32", "38-43", "48-53", "60+"]


def made(names: list[str], models: int) -> HeatMap:
    table = np.full((2, len(names)), 1 / len(names))
    return heat_map(["a", "b"], names, {f"model {number}": table for number in range(models)})


def widths(html: str) -> list[float]:
    return [float(width) for width in re.findall(r"@container \(max-width:([\d.]+)rem\)", html)]


def test_three_models_of_eight_groups_fold_where_they_no_longer_fit():
    """By hand, in rem: 11 or 9.8 for the images, then for each model 8 cells with a line, and a gap."""
    html = to_html(made(GROUPS, 3))
    roomy, tight = 11 + 3 * (8 * (2.55 + 0.0625) + 0.75) + 0.2, 9.8 + 3 * (8 * (2.1 + 0.0625) + 0.75) + 0.2
    lines = 8 * (1.95 + 0.0625)
    found = widths(html)
    assert found[0] >= roomy - 0.01  # "15-20" is a little wider than a number
    assert found[1:] == [round(one - 0.01, 2) for one in (tight, 9.8 + 8 + lines, 4.75 + lines)]
    assert tight * 16 < 1030  # what a window of 1440 px leaves them: side by side, as on larger ones
    assert 4.75 + lines < 336 / 16  # a phone of 390 px still has a line for each model


def test_layouts_only_ever_get_narrower():
    for names in (GROUPS, ["cat", "dog"], [f"a class with a long name {n}" for n in range(25)]):
        for models in (1, 2, 12):
            found = widths(to_html(made(names, models)))
            assert len(found) == 4
            assert found == sorted(found, reverse=True)


def test_east_asian_names_and_long_ones_count_as_wide_as_they_are():
    plain, wide = (layout_rules(made(names, 1), names, turned=False, dense=False) for names in PAIR)
    assert widths(wide)[0] > widths(plain)[0] + 2
    long = ["a class that has a name of so many words that it is broken into several lines" * 2] * 2
    turned = layout_rules(made(PAIR[0], 1), long, turned=True, dense=False)
    assert widths(turned)[0] > widths(plain)[0] + 2


PAIR = (["a" * 6, "b" * 6], ["\N{HANGUL SYLLABLE GA}" * 6, "\N{HANGUL SYLLABLE NA}" * 6])


def test_only_many_classes_carry_their_names_in_every_row():
    few, many = made(["cat", "dog"], 2), made(GROUPS, 2)
    assert (fits_in_lines(few), fits_in_lines(many)) == (True, False)
    assert 'class="y"' not in to_html(few)
    assert to_html(many).count('<th class="y">') == 2 * (1 + len(GROUPS))


def test_every_model_is_named_in_every_row_and_columns_once():
    html = to_html(made(GROUPS, 3))
    assert html.count('<th class="k">') == 2 * 3
    assert len(re.findall(r'<th scope="col" class="(?:g )?r"', html)) == 2 * len(GROUPS)


def test_the_rules_hold_for_maps_of_this_size_alone():
    found = made(GROUPS, 3)
    assert layout_class(found) == "k8m3"
    assert '<div class="crl-heat k8m3 d"' in to_html(found)
    rules = layout_rules(found, GROUPS, turned=False, dense=True)
    selectors = re.findall(r"[{},](\.[^{},]+?)(?=[{,])", rules)
    assert len(selectors) > 20
    assert all(one.startswith(".crl-heat.crl-heat.crl-heat.k8m3 ") for one in selectors)
    assert rules.count("{") == rules.count("}")
    assert rules in to_html_page(found, "T")
