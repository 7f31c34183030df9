"""`crl demo`: the only door to gradio; the page's layout, its events, and the server's life.

Gradio reads the environment when it is imported, and takes a second or two for it: so it is imported inside
functions, after the guard has looked the environment over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.config import DemoConfig
from apps.demo import models as demo_models
from apps.demo import results as demo_results
from apps.demo import startup as demo_start
from apps.demo import text as demo_page
from apps.demo import theme
from apps.demo.audit import ABOUT, SLIDER, Audit, audit_html, read_audit
from apps.demo.results import write_downloads
from apps.demo.startup import RunningDemo
from finetune.cli.console import say
from finetune.runs.interrupts import StopRequest

if TYPE_CHECKING:
    from apps.demo.examples import Examples
    from apps.demo.service import DemoService
    from apps.demo.uploads import UploadFolder


def serve_demo(models: Sequence[Path], config: DemoConfig) -> dict[str, Any]:
    """Serve the demo until Ctrl-C, SIGTERM or SIGHUP, which is its ordinary end: the exit code is 0.

    Args:
        models: .onnx files of `crl export`; those of one task share a tab and need the same classes.
        config: where to listen, what to accept, how long to keep it. With `check` one image is answered
            over the port, and the demo stops.

    Returns the address, the models' titles and, with `check`, the answer.
    Raises ModelFileError for a file that cannot be used or class lists that differ; UsageError for a port in
    use, a public address without passwords, and missing folders.
    """
    with StopRequest() as stop, running_demo(models, config) as demo:
        told: dict[str, Any] = {
            "url": demo.url,
            "models": {task: list(service.titles) for task, service in demo.services.items()},
        }
        if config.check:
            told["check"] = _check(demo, config)
        else:
            say(f"open {demo.public} in a browser (started in {demo.seconds:.1f} s); Ctrl-C stops the demo")
            while not stop.requested:
                time.sleep(0.2)
    say("stopped; the uploaded images are removed")
    return told


@contextmanager
def running_demo(models: Sequence[Path], config: DemoConfig) -> Iterator[RunningDemo]:
    """Give a demo that answers while the context is open; leaving it closes the port and removes uploads."""
    from apps.demo.security import startup as guard
    from apps.demo.security.rules import read_public_address
    from apps.demo.uploads import Janitor, UploadFolder

    start = time.perf_counter()
    demo_start.check_numbers(config)
    public = read_public_address(config.public_url) if config.public_url else None
    guard.check_bind(config.host, config.auth, public)
    people = guard.read_auth(config.auth) if config.auth else None
    port = guard.free_port(config.host, config.port, config.auto_port)
    by_task = demo_start.load_models(models, config)
    with UploadFolder() as folder, Janitor(folder.path, config.keep_minutes):
        guard.refuse_environment(folder.path)
        with demo_start.without_stubs():
            import gradio  # noqa: F401  (its first import)
        examples = {task: demo_start.load_examples(config, found) for task, found in by_task.items()}
        services = demo_start.build_services(by_task, examples, folder, config)
        blocks = build_blocks(services, examples, folder, config)
        try:
            demo_start.launch(blocks, _look(), folder, config, port, people, public)
            seconds = time.perf_counter() - start
            url = demo_start.address(config.host, port)
            shown = f"{public.url}/" if public else url
            yield RunningDemo(url, shown, services, examples, folder, seconds)
        finally:
            demo_start.close_soon(blocks)
            blocks.close(verbose=False)


def build_blocks(
    services: dict[str, DemoService], examples: dict[str, Examples], folder: UploadFolder, config: DemoConfig
) -> Any:
    """Return the page as gradio Blocks, with its events and the endpoint /predict; nothing listens yet.

    Raises DataError for a folder of `config.audit` that holds no audit.
    """
    import gradio as gr

    audit = None if config.audit is None else read_audit(Path(config.audit))
    keep = round(config.keep_minutes * 60)
    with gr.Blocks(
        title=demo_page.TITLE,
        analytics_enabled=False,
        delete_cache=(max(1, min(60, keep)), max(1, keep)),
        fill_width=True,
    ) as blocks:
        _html(demo_page.HEADER)
        tabs = demo_start.tabs(services)
        with gr.Tabs(selected=next(iter([*services, *tabs]))):
            for task, title in tabs.items():
                with gr.Tab(title, id=task):
                    if task in services:
                        _build_tab(task, services[task], examples[task], folder, config)
                    else:
                        _html(demo_page.missing_html(task))
            if audit is not None:
                with gr.Tab("Audit", id="audit"):
                    _build_audit(audit)
            with gr.Tab("Loss explorer", id="losses"):
                _build_explorer()
        _html(demo_page.footer_html(config.keep_minutes))
        _add_endpoint(services)
    return blocks


def _build_tab(
    task: str, service: DemoService, examples: Examples, folder: UploadFolder, config: DemoConfig
) -> None:
    """Lay out one tab: the questions on the left, the answers on the right, and what a click does."""
    import gradio as gr

    notes = demo_models.drawn_html(service.models) + demo_models.warnings_html(service.models)
    _html(f'<p class="crl-about">{demo_page.about(task)}</p>{notes}')
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=320, elem_classes="crl-panel"):
            files = gr.File(
                file_count="multiple", type="filepath", label="Images", height=140, elem_classes="crl-drop"
            )
            _html(demo_page.limits_html(config.max_files, config.max_mb))
            picked = gr.HTML(
                [],
                html_template=demo_page.examples_template(examples, service.class_names),
                js_on_load=demo_page.PICK_EXAMPLES,
                apply_default_css=False,
                padding=False,
                visible=bool(examples.items),
            )
            titles = gr.CheckboxGroup(
                list(service.titles), value=list(service.titles), label="Models to compare"
            )
            cropped = _cropped_switch(gr, service, config.cropped)
            explain, truth = _more_options(gr, service, bool(examples.items))
            button = gr.Button("Classify", variant="primary", elem_classes="crl-go")
            _html(demo_page.privacy_html(task, config.keep_minutes))
        with gr.Column(scale=9, min_width=320, elem_classes="crl-answers"):
            results = _html(demo_page.empty_html(config.max_files, bool(examples.items)), min_height=240)
            with gr.Row(elem_classes="crl-downloads"):
                csv = gr.DownloadButton("Download all numbers (CSV)", visible=False, size="md")
                png = gr.DownloadButton("Download the heat maps (PNG)", visible=False, size="md")
    _html(demo_models.facts_html(service.models))

    def classify(
        paths: list[str] | None,
        places: object,
        chosen: list[str],
        is_cropped: bool,
        explained: bool,
        true: str | None,
    ) -> Iterator[tuple[Any, Any, Any]]:
        answer = service.answer(
            [*(paths or ()), *examples.at(places)],
            chosen,
            cropped=is_cropped,
            truth=true or None,
            explain=explained,
            waits=_visitor(),
        )
        hidden = gr.DownloadButton(visible=False)
        yield demo_results.results_html(answer), hidden, hidden
        if answer.rows:
            made = write_downloads(answer, folder, paths or ())
            yield (
                demo_results.results_html(answer, made.notice) if made.notice else gr.skip(),
                gr.DownloadButton(value=str(made.table), visible=True),
                gr.DownloadButton(value=str(made.drawing), visible=True) if made.drawing else hidden,
            )

    for moment in (button.click, results.change):
        moment(None, js=demo_page.SHOW_ANSWERS)
    button.click(
        classify,
        [files, picked, titles, cropped, explain, truth],
        [results, csv, png],
        api_visibility="private",
        show_progress_on=[results],
        concurrency_id="classify",
    )


def _more_options(gr: Any, service: DemoService, has_examples: bool) -> tuple[Any, Any]:
    """Return the folded questions: whether to show where the network looked, and the images' true class."""
    with gr.Accordion("More options", open=False, elem_classes="crl-more"):
        explain = gr.Checkbox(
            service.has_maps, label="Show where the network looked", info=demo_page.explain_info(service)
        )
        truth = gr.Dropdown(
            [(demo_page.NOT_GIVEN, ""), *demo_page.class_choices(service.class_names)],
            value="",
            label="True class, if you know it",
            info=demo_page.truth_info(has_examples),
        )
    return explain, truth


def _cropped_switch(gr: Any, service: DemoService, on: bool) -> Any:
    """Return the switch "already cropped": hidden where no model wants faces, fixed without a detector."""
    return gr.Checkbox(
        on or service.detector is None,
        label="Already cropped to one face",
        info=demo_page.cropped_info(service),
        interactive=service.detector is not None,
        visible=service.wants_faces,
    )


def _add_endpoint(services: dict[str, DemoService]) -> None:
    """Add /predict for gradio_client and curl: plain values in, one JSON object out (see docs/demo.md)."""
    import gradio as gr

    def predict(
        files: list[dict[str, Any]],
        models: list[str] | None = None,
        already_cropped: bool | None = False,
        true_class: str | None = None,
    ) -> dict[str, Any]:
        """Classify uploaded images.

        Args:
            files: uploaded images.
            models: titles of models of one tab; none or null asks all of the first tab.
            already_cropped: the images show one face each, cut out already.
            true_class: the images' class, where it is known; it goes before an example's own.

        Returns an object: pictures, a list of {name, face, box, true, models: {title: {class, probability,
        probs}}, warnings}; errors, a list of {name, reason}; and status, one line.
        """
        from apps.demo.endpoint import answer_call

        return answer_call(services, files, models, already_cropped, true_class, waits=_visitor())

    gr.api(predict, api_name="predict", concurrency_id="classify")


def _visitor() -> Callable[[], bool]:
    """Return a function that tells whether the visitor whose question is being answered still waits."""
    from gradio.context import LocalContext

    from apps.demo.endpoint import still_waits

    request = LocalContext.request.get(None)
    return still_waits(LocalContext.blocks.get(None), getattr(request, "session_hash", None))


def _build_explorer() -> None:
    """Lay out the third tab: losses and gradients against the posterior, redrawn as the sliders move."""
    import gradio as gr

    from apps.demo.loss_explorer import MAXIMA, START, explorer_html, redrawn_html

    _html(f'<p class="crl-about">{demo_page.ABOUT_LOSSES}</p>')
    with gr.Row(elem_classes="crl-sliders"):
        sliders = [
            gr.Slider(0, MAXIMA[name], START[name], step=0.05, label=label, min_width=200)
            for name, label in demo_page.SETTINGS.items()
        ]
    curves = _html(f'<div class="crl-frame">{explorer_html()}</div>')

    def redraw(alpha: object, beta: object, gamma: object) -> str:
        return f'<div class="crl-frame">{redrawn_html(alpha, beta, gamma)}</div>'

    # As typed, without gradio's own check, whose refusal has no words; and again when the field corrects it.
    gr.on(
        [moment for slider in sliders for moment in (slider.input, slider.change)],
        redraw,
        sliders,
        curves,
        api_visibility="private",
        show_progress="hidden",
        trigger_mode="always_last",
        preprocess=False,
        queue=False,
    )


def _build_audit(audit: Audit) -> None:
    """Lay out the page of an audit: measured rates, shown for the challenge age that the slider names."""
    import gradio as gr

    _html(f'<p class="crl-about">{ABOUT}</p>')
    with gr.Row(elem_classes="crl-sliders"):
        first, last = audit.ages[0], audit.ages[-1]
        slider = gr.Slider(first, last, audit.headline, step=1, label=SLIDER, min_width=200)
    shown = _html(f'<div class="crl-frame">{audit_html(audit, audit.headline)}</div>')
    gr.on(
        [slider.input, slider.change],
        lambda age: f'<div class="crl-frame">{audit_html(audit, age)}</div>',
        [slider],
        shown,
        api_visibility="private",
        show_progress="hidden",
        trigger_mode="always_last",
        preprocess=False,
        queue=False,
    )


def _html(text: str, **options: Any) -> Any:
    """Place a piece of HTML as it is: without gradio's own styles for text and its script for clicks."""
    import gradio as gr

    return gr.HTML(text, padding=False, js_on_load=None, apply_default_css=False, **options)


def _look() -> Any:
    """Return gradio's theme in the demo's own colours and fonts."""
    import gradio as gr

    return gr.themes.Base(font=theme.FONT, font_mono=theme.MONO).set(**theme.theme_values())


def _check(demo: RunningDemo, config: DemoConfig) -> dict[str, Any]:
    from apps.demo.check import check_demo
    from apps.demo.security.startup import read_auth

    person = read_auth(config.auth)[0] if config.auth else None
    shown = [item for examples in demo.examples.values() for item in examples.items]
    return check_demo(demo.url, shown[0].path.read_bytes() if shown else None, person)
