"""The task of a file or a run by its kind, and the words for models of several tasks or of an absent one."""

from __future__ import annotations

import pytest

from agecls.task import TASK as AGE
from finegrained.task import TASK as FINE
from finetune.errors import UsageError
from finetune.experiments.exported.lookup import (
    drawing_words,
    evaluated_task,
    exported_task,
    file_task,
    words_of,
)


def test_a_file_s_task_is_found_by_its_kind():
    assert (file_task("age"), file_task("category"), file_task("weather")) == (AGE, FINE, None)
    assert evaluated_task("category", "a.onnx") is FINE
    with pytest.raises(UsageError, match=r"a\.onnx is a model of .* 'weather'.*there are age, category"):
        evaluated_task("weather", "a.onnx")


def test_a_run_s_task_is_found_by_its_kind_and_the_first_release_had_one():
    assert (exported_task("fine_run"), exported_task("age_cv"), exported_task("")) == (FINE, AGE, AGE)
    with pytest.raises(UsageError, match="'weather' cannot be exported; can be: age_fold, age_cv, fine_run"):
        exported_task("weather")


def test_a_task_that_is_absent_has_plain_words():
    words = words_of("sky_watch")
    assert (words.kind, words.tab, words.purpose, words.missing) == ("sky_watch", "Sky watch", "", None)


def test_of_drawings_of_several_tasks_faces_are_told():
    assert drawing_words(["category", "age"]).photographs == "real faces"
    assert drawing_words(["category", "weather"]).photographs == "photographs"
