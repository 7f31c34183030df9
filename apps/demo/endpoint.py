"""The endpoint /predict without its server: values of any kind in, one JSON object out; who still waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from apps.demo.answer import Answer
from apps.demo.service import DemoService


def still_waits(blocks: Any, session: str | None) -> Callable[[], bool]:
    """Return a function that tells whether a visitor is still there: gradio marks the jobs of those who left.

    Args:
        blocks: the page, as gradio's Blocks.
        session: gradio's name for the visit.
    """

    def waits() -> bool:
        running = getattr(getattr(blocks, "_queue", None), "active_jobs", None) or ()
        jobs = [job for group in running for job in group or () if job.session_hash == session]
        return not jobs or any(job.alive for job in jobs)

    return waits


def answer_call(
    services: Mapping[str, DemoService],
    files: object,
    models: object = None,
    already_cropped: object = False,
    true_class: object = None,
    *,
    waits: Callable[[], bool] = lambda: True,
) -> dict[str, Any]:
    """Return the answer to a call of the endpoint /predict, whose values may be anything that JSON can say.

    The first model's tab decides which service answers; without models it is the first tab's. A value of
    another kind than asked for is refused in words, never guessed at.
    """
    listed = [files] if isinstance(files, dict | str) else files
    paths: list[Any] = [item.get("path") if isinstance(item, dict) else item for item in _list(listed) or ()]
    titles = _list([models] if isinstance(models, str) else [] if models is None else models)
    wrong = {
        "files must be a list of uploaded files": not _all_words(_list(listed) and paths),
        "models must be a list of titles, or null for all": not _all_words(titles),
        "already_cropped must be true or false": not isinstance(already_cropped, bool | None),
        "true_class must be a class's name, or null": not isinstance(true_class, str | None),
    }
    service = next(iter(services.values()))
    if any(wrong.values()):
        reasons = tuple(("", reason) for reason, is_wrong in wrong.items() if is_wrong)
        return Answer(service.class_names, errors=reasons).to_dict()
    if titles:
        service = next((one for one in services.values() if titles[0] in one.titles), service)
    truth = str(true_class) if true_class else None
    cropped = already_cropped is True
    return service.answer(paths, titles or None, cropped=cropped, truth=truth, waits=waits).to_dict()


def _list(value: object) -> list[Any] | None:
    return list(value) if isinstance(value, list | tuple) else None


def _all_words(values: Sequence[object] | None) -> bool:
    return values is not None and all(isinstance(value, str) for value in values)
