from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import apps.runtime.batching
from apps.runtime.session import OnnxClassifier
from apps.runtime.side_by_side import align_classes, probabilities
from finetune.errors import ModelFileError
from finetune.images.preprocess import PreprocessSpec, preprocess
from tests.apps.tiny_onnx import SPEC, expected_probs, tiny_facts, write_tiny
from tests.apps.tiny_run import write_pictures


def test_a_picture_is_decoded_once_for_all_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small = PreprocessSpec(16, "warp", 20, "bicubic", (0.5,) * 3, (0.5,) * 3)
    facts = [tiny_facts(), tiny_facts(), tiny_facts(preprocess=small)]
    models = [
        OnnxClassifier(write_tiny(tmp_path / f"{seed}.onnx", fact, seed=seed), device="cpu")
        for seed, fact in enumerate(facts)
    ]
    pixels = write_pictures(tmp_path / "pictures", 9)
    files = sorted((tmp_path / "pictures").iterdir())
    seen: list[Path] = []
    decode = apps.runtime.batching.decode_guarded
    monkeypatch.setattr(
        apps.runtime.batching, "decode_guarded", lambda file: seen.append(file) or decode(file)
    )
    found = probabilities(models, files, ["center", "flip", "ten"], batch_size=30)
    assert sorted(seen) == files
    prepared = np.stack([preprocess(image, SPEC) for image in pixels])
    np.testing.assert_allclose(found[0], expected_probs(prepared, seed=0), atol=1e-6)
    np.testing.assert_allclose(found[1], expected_probs(prepared, seed=1), atol=1e-6)
    alone = np.stack([answer.probs for answer in models[2].predict(files, test_crops="ten")])
    np.testing.assert_allclose(found[2], alone, atol=1e-6)


def test_no_picture_gives_no_row(tmp_path: Path):
    model = OnnxClassifier(write_tiny(tmp_path / "tiny.onnx"), device="cpu")
    assert probabilities([model], [], ["center"])[0].shape == (0, 8)


SIX = ("Ram C/V", "Audi", "BMW", "Fiat", "Volvo", "Jeep")


def category(file: Path, names: tuple[str, ...], **facts: object) -> OnnxClassifier:
    given = {"task": "category", "ordered": False, "crop": None, "class_names": names, "title": file.stem}
    return OnnxClassifier(write_tiny(file, tiny_facts(**{**given, **facts})), device="cpu")


def test_models_with_the_same_classes_in_another_order_answer_in_one(tmp_path: Path):
    other = ("Audi", "BMW", "Fiat", "Jeep", "Ram C-V", "Volvo")
    first, plain = category(tmp_path / "a.onnx", SIX), category(tmp_path / "b.onnx", other)
    moved = category(tmp_path / "b.onnx", other)
    assert align_classes([first, first, moved]) == ["b: classes put into the order of a, by their names"]
    assert moved.class_names == SIX
    batch = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    before, after = plain.run(batch, maps=True), moved.run(batch, maps=True)
    for place, name in enumerate(SIX):
        old = other.index(name.replace("/", "-"))
        np.testing.assert_array_equal(after.probs[:, place], before.probs[:, old])
        np.testing.assert_array_equal(after.logits[:, place], before.logits[:, old])
        np.testing.assert_array_equal(after.maps[:, place], before.maps[:, old])
    answer, unmoved = moved.predict([batch[0]])[0], plain.predict([batch[0]])[0]
    assert answer.class_name.replace("/", "-") == unmoved.class_name
    assert answer.probability == unmoved.probability


def test_models_with_the_same_list_are_left_alone(tmp_path: Path):
    models = [category(tmp_path / f"{name}.onnx", SIX) for name in "ab"]
    assert align_classes(models) == []
    assert align_classes([]) == []
    assert models[1].order_note == ""


@pytest.mark.parametrize(
    ("names", "facts", "told"),
    [
        ((*SIX[:5], "Kia"), {}, "the second lacks Jeep and adds Kia"),
        (SIX[:5], {}, "6 and 5"),
        (SIX[::-1], {"ordered": True}, "in another order"),
    ],
)
def test_other_classes_and_ordered_ones_are_refused(
    tmp_path: Path, names: tuple[str, ...], facts: dict[str, object], told: str
):
    models = [category(tmp_path / "a.onnx", SIX), category(tmp_path / "b.onnx", names, **facts)]
    with pytest.raises(ModelFileError, match=rf"{told}.*one after the other"):
        align_classes(models)
