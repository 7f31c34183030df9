"""The words of the demo's page, its lines of script, and words and pixels from outside made fit for it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from apps.demo.looks import MOST_COVERED
from apps.heatmap.heatmap import names_for_people
from finetune.experiments.exported.lookup import words_of
from finetune.images.decode import FORMAT_NAMES

if TYPE_CHECKING:
    from apps.demo.examples import Examples
    from apps.demo.service import DemoService

TITLE = "CRL toolkit: the same image, different losses"
NOT_GIVEN = "not given"
SHORT = 8  # characters of a class's name that fit under an example's small image

# Copies the table that a button names as tab-separated text; spreadsheets take it as cells.
COPY_SCRIPT = """() => document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-crl-copy]");
  if (!button) return;
  const table = button.closest(".crl-all").querySelector("table");
  const cells = (row) => [...row.cells].map((cell) => cell.textContent.trim()).join("\\t");
  const text = [...table.rows].map(cells).join("\\n");
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
  }
  button.textContent = done ? "Copied" : "Copying is not allowed here";
  setTimeout(() => { button.textContent = "Copy table"; }, 2000);
})"""

# On a phone the answers stand below the questions: the page moves there when the work begins, and again when
# it is done, since before it may be too short to move that far.
SHOW_ANSWERS = """() => {
  const answers = [...document.querySelectorAll(".crl-answers")].find((one) => one.offsetParent);
  const below = answers && answers.getBoundingClientRect().top > 0.3 * innerHeight;
  if (below && innerWidth < 1000) answers.scrollIntoView();
}"""

# The chosen examples are the component's value, a list of their places, kept in the browser.
PICK_EXAMPLES = """element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-example]");
  if (!button) return;
  const place = Number(button.dataset.example), others = props.value.filter((other) => other !== place);
  props.value = others.length < props.value.length ? others : [...others, place];
});"""

HEADER = """<header class="crl-header">
<p class="crl-eyebrow">CRL toolkit</p>
<h1>The same image, different losses</h1>
<p class="crl-lead">Upload a few images and see, side by side, what networks trained with different losses
make of them: the crop each one saw, how confident it is in every class, and where it looked.</p>
</header>"""

ABOUT_LOSSES = (
    "What are a loss's value and gradient when the network gives the true class the "
    "probability p<sub>c</sub>? Move the sliders: the curves are exact."
)
SETTINGS = {
    "alpha": "CRL: alpha, the competitors' head start",
    "beta": "CRL: beta, the weight of the competition",
    "gamma": "Focal: gamma, how fast confident images fade",
}


def data_uri(image: np.ndarray, kind: str = ".png") -> str:
    """Return uint8 (H, W, 3) RGB pixels as a data URI: exact as .png, smaller as .jpg."""
    name = {".png": "png", ".jpg": "jpeg"}[kind]
    from apps.heatmap.picture import encode_image  # OpenCV: charts need none

    return f"data:image/{name};base64,{base64.b64encode(encode_image(image, kind)).decode('ascii')}"


def safe(words: str) -> str:
    """Return words from outside, escaped, signs that steer lines or writing direction made visible.

    >>> safe("<b>.jpg"), safe("a\\u202egpj.exe") == "a\\ufffdgpj.exe"
    ('&lt;b&gt;.jpg', True)
    """
    return escape("".join(sign if sign.isprintable() else "\ufffd" for sign in words))


def percent(probability: float) -> str:
    """Return a probability in percent, never rounded to certainty.

    >>> percent(0.6149), percent(0.00001), percent(0.99999)
    ('61.5 %', '< 0.1 %', '> 99.9 %')
    """
    if probability < 0.0005:
        return "< 0.1 %"
    return "> 99.9 %" if probability > 0.9995 else f"{100 * probability:.1f} %"


def about(task: str) -> str:
    """Return what a task's tab answers, in HTML."""
    return words_of(task).question


def missing_html(task: str) -> str:
    """Return what a tab says that has no model: how to add one, in one sentence."""
    words = words_of(task)
    without = (f"No model yet: {words.tab}", "crl export RUN", "crl demo FILE")
    title, export, serve = words.missing or without
    return (
        f'<div class="crl-empty"><h2>{title}</h2><p>Export one from a finished run with '
        f"<code>{export}</code>, then start the demo with it: <code>{serve}</code>.</p></div>"
    )


def empty_html(max_files: int, examples: bool) -> str:
    """Return the invitation that stands where the results will be."""
    cells = "".join(
        f'<i style="--p:{value}"></i>' for value in (8, 62, 22, 8, 4, 18, 66, 12, 2, 6, 30, 62, 70, 20, 8, 2)
    )
    start = "Drop an image or pick an example," if examples else "Drop an image"
    return (
        f'<div class="crl-empty"><div class="crl-empty-map" aria-hidden="true">{cells}</div>'
        f"<h2>Your results will appear here</h2><p>{start} then press <b>Classify</b>. "
        f"Up to {max_files} images at once; a group photo counts as one.</p></div>"
    )


def limits_html(max_files: int, max_mb: float) -> str:
    """Return what may be dropped: how many images, how large, which formats."""
    return f'<p class="crl-hint">Up to {max_files} images of {max_mb:g} MB each: {FORMAT_NAMES}.</p>'


def privacy_html(task: str, keep_minutes: float) -> str:
    """Return what happens to an uploaded image, and what the answers are not for."""
    purpose = f"{words_of(task).purpose} ".lstrip()
    return (
        f'<p class="crl-privacy">{purpose}Your images stay on this machine; they and the files made '
        f"of them are removed within {duration(keep_minutes)}.</p>"
    )


def duration(minutes: float) -> str:
    """Return a length of time in words, seconds where it is short.

    >>> duration(10), duration(1), duration(1.5), duration(0.2), duration(0.01)
    ('10 minutes', 'a minute', '1.5 minutes', '12 seconds', 'a second')
    """
    if minutes >= 1:
        return "a minute" if minutes == 1 else f"{minutes:g} minutes"
    seconds = max(1, round(60 * minutes))
    return "a second" if seconds == 1 else f"{seconds} seconds"


def cropped_info(service: DemoService) -> str:
    """Return the line under the switch "already cropped": what it does, or why it is fixed."""
    if service.detector is None:
        return "No face detector is installed here, so each image must show one face, cut out already."
    return "Off: faces are found in the photo, and each is cut out the way the model was trained."


def explain_info(service: DemoService) -> str:
    """Return the line under the switch "where the network looked": how it is made, and what it costs."""
    if service.has_maps:
        return "The class activation map, laid over the crop."
    return (
        "Takes longer: parts of the image are covered one after another, for the first "
        f"{MOST_COVERED} crops at most."
    )


def truth_info(examples: bool) -> str:
    """Return the line under the choice of the true class: what it holds for."""
    own = f" With '{NOT_GIVEN}', an example has its own." if examples else ""
    return f"The same for all images.{own}"


def class_choices(class_names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the classes to choose from: the name for people, and the model's own.

    >>> class_choices(["004.Groove_billed_Ani"])
    [('Groove billed Ani', '004.Groove_billed_Ani')]
    """
    return list(zip(names_for_people(class_names), class_names, strict=True))


def footer_html(keep_minutes: float) -> str:
    """Return the page's last lines: whose page it is, and how to ask it from a program."""
    return (
        '<footer class="crl-footer">Made with the CRL toolkit. Programs ask at <code>/predict</code> '
        "(gradio_client or curl). Nothing leaves this machine; uploads go within "
        f"{duration(keep_minutes)}.</footer>"
    )


def examples_template(examples: Examples, class_names: Sequence[str] = ()) -> str:
    """Return the examples as buttons that can be switched on and off, a template for gradio's HTML component.

    Its value is the list of the chosen places; gradio fills in `${...}` in the browser, and again whenever
    the value changes. Classes have their names for people; no name can add to the template.
    """
    known_as = dict(zip(class_names, names_for_people(class_names), strict=True))
    buttons = []
    for place, item in enumerate(examples.items):
        name = known_as.get(item.class_name, item.class_name) if item.class_name else item.path.stem
        words = f"example, {name}" if item.class_name else f"example {name}"
        buttons.append(
            f'<button type="button" title="{_inert(name)}" '
            f'data-example="{place}" aria-pressed="${{value.includes({place})}}">'
            f'<img src="{data_uri(item.thumbnail, ".jpg")}" alt="{_inert(words)}">'
            f'<span aria-hidden="true">{_inert(name)}</span></button>'
        )
    wide = " is-wide" if any(len(name) > SHORT for name in known_as.values()) else ""
    return (
        f'<p class="crl-label">Examples to try</p><div class="crl-examples{wide}" role="group" '
        f'aria-label="Examples">{"".join(buttons)}</div>'
    )


def _inert(words: str) -> str:
    signs = {"`": "&#96;", "$": "&#36;", "{": "&#123;", "}": "&#125;", "\\": "&#92;"}
    return "".join(signs.get(sign, sign) for sign in safe(words))
