from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import apps.runtime.batching
import apps.runtime.session
from apps.runtime.session import OnnxClassifier, Prediction
from apps.runtime.side_by_side import check_same_classes
from finetune.errors import ModelFileError, ResourceError, UsageError
from finetune.images.decode import BadImageError
from finetune.images.preprocess import prepare, preprocess
from finetune.images.preprocess import test_crops as crops_of
from tests.apps.tiny_onnx import GROUPS, SPEC, expected_probs, tiny_facts, write_tiny

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def model(tmp_path: Path) -> OnnxClassifier:
    return OnnxClassifier(write_tiny(tmp_path / "tiny.onnx"), device="cpu")


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    """Images of one colour each and some noise, of different sizes, so that answers differ."""
    generator = np.random.default_rng(seed)
    colours = generator.integers(0, 200, (count, 3))
    sizes = generator.integers(20, 90, (count, 2))
    return [
        (colour + generator.integers(0, 56, (*size, 3))).astype(np.uint8)
        for colour, size in zip(colours, sizes, strict=True)
    ]


def count_runs(model: OnnxClassifier, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that the batch size of every call of the runtime is added to."""
    sizes: list[int] = []
    session = model._session

    def run(names: list[str], feed: dict[str, np.ndarray], options: Any) -> Any:
        sizes.append(len(feed["images"]))
        return session.run(names, feed, options)

    monkeypatch.setattr(model, "_session", SimpleNamespace(run=run))
    return sizes


# What it answers.


def test_it_answers_as_worked_out_by_hand(model: OnnxClassifier):
    images = pictures(5)
    prepared = np.stack([preprocess(image, SPEC) for image in images])
    wanted = expected_probs(prepared)
    for row, answer in enumerate(model.predict(images)):
        np.testing.assert_allclose(answer.probs, wanted[row], atol=1e-6)
        np.testing.assert_array_equal(answer.crop, prepared[row])
        assert answer.class_index == wanted[row].argmax()
        assert answer.class_name == GROUPS[answer.class_index]
        assert answer.probability == answer.probs.max()
        assert answer.probs.sum() == pytest.approx(1, abs=1e-5)
        assert answer.maps is None
        odds = answer.logits - answer.logits.max()
        np.testing.assert_allclose(np.exp(odds) / np.exp(odds).sum(), answer.probs, atol=1e-6)


def test_it_tells_what_it_is(tmp_path: Path):
    model = OnnxClassifier(write_tiny(tmp_path / "tiny.onnx", maps=False), device="cpu")
    assert (model.title, model.class_names, model.size, model.has_maps) == ("tiny", GROUPS, 32, False)
    assert (model.device, model.device_note) == ("cpu", "device: asked cpu, using cpu (ONNX Runtime)")
    assert len(model.sha256) == 64


def test_top_is_ordered_and_ends_where_the_classes_end(model: OnnxClassifier):
    answer = model.predict(pictures(1))[0]
    top = answer.top(3)
    assert top[0] == (answer.class_name, answer.probability)
    assert [share for _, share in top] == sorted(answer.probs, reverse=True)[:3]
    assert len(answer.top(99)) == len(GROUPS)
    names = tuple(f"bird {number}" for number in range(200))
    even = Prediction(names[0], 0, 0.005, np.full(200, 0.005), np.zeros(200), np.zeros((1, 1, 3)), names)
    assert [name for name, _ in even.top(3)] == ["bird 0", "bird 1", "bird 2"]


def test_maps_average_to_the_logits_without_the_bias(model: OnnxClassifier):
    image = pictures(1)[0]
    answer = model.predict([image], maps=True)[0]
    assert answer.maps is not None
    assert answer.maps.shape == (8, 4, 4)
    shift = answer.logits - answer.maps.mean(axis=(1, 2))
    others = model.predict([255 - image], maps=True)[0]
    assert others.maps is not None
    np.testing.assert_allclose(others.logits - others.maps.mean(axis=(1, 2)), shift, atol=1e-5)


def test_maps_of_a_model_without_are_none(tmp_path: Path):
    model = OnnxClassifier(write_tiny(tmp_path / "tiny.onnx", maps=False), device="cpu")
    assert model.predict(pictures(2), maps=True)[0].maps is None


def test_arrays_files_and_bytes_give_the_same(model: OnnxClassifier, tmp_path: Path):
    image = pictures(1)[0]
    file = tmp_path / "face.png"
    cv2.imwrite(str(file), image[:, :, ::-1])
    answers = model.predict(
        [image, file, str(file), file.read_bytes(), Image.open(file), Image.fromarray(image)]
    )
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer.probs, answers[0].probs)


@pytest.mark.parametrize("kind", ["array", "Path", "str", "bytes", "PIL", "batch"])
def test_a_single_image_is_a_list_of_one(model: OnnxClassifier, tmp_path: Path, kind: str):
    image = pictures(1)[0]
    file = tmp_path / "face.png"
    Image.fromarray(image).save(file)
    with Image.open(file) as opened:
        single: Any = {
            "array": image,
            "Path": file,
            "str": str(file),
            "bytes": file.read_bytes(),
            "PIL": opened,
            "batch": image[None],
        }[kind]
        [answer] = model.predict(single)
    np.testing.assert_array_equal(answer.probs, model.predict([image])[0].probs)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK", "turned"])
def test_a_pil_image_is_seen_as_its_file(model: OnnxClassifier, tmp_path: Path, mode: str):
    made = Image.fromarray(pictures(1)[0])
    exif = Image.Exif()
    if mode == "turned":
        exif[274] = 6
    elif mode == "RGBA":
        made.putalpha(90)
    else:
        made = made.convert(mode)
    file = tmp_path / ("face.tif" if mode == "CMYK" else "face.png")
    made.save(file, exif=exif)
    opened = Image.open(file)
    [seen, wanted] = model.predict([opened, file])
    np.testing.assert_array_equal(seen.crop, wanted.crop)
    assert opened.getexif().get(274) == exif.get(274)  # and it stays as it was


def test_one_pil_image_in_many_places_and_threads(model: OnnxClassifier, tmp_path: Path):
    file = tmp_path / "face.png"
    Image.fromarray(pictures(1)[0]).save(file)
    answers = model.predict([Image.open(file)] * 40, batch_size=8)
    assert len({answer.probs.tobytes() for answer in answers}) == 1


def test_a_pil_image_that_cannot_be_read_is_named(model: OnnxClassifier, tmp_path: Path):
    file = tmp_path / "face.png"
    Image.fromarray(pictures(1)[0]).save(file)
    file.write_bytes(file.read_bytes()[:200])
    with Image.open(file) as opened, pytest.raises(BadImageError, match=r"face\.png: truncated, damaged or"):
        model.predict(opened)
    with pytest.raises(BadImageError, match="floating-point pixels"):
        model.predict(Image.fromarray(np.zeros((40, 40), np.float32)))
    with pytest.raises(BadImageError, match="each side needs at least 8"):
        model.predict(Image.new("RGB", (40, 4)))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (np.zeros((40, 40), np.uint8), r"got uint8 \(40, 40\); of grey pixels make"),
        (np.zeros((40, 40, 4), np.uint8), r"got uint8 \(40, 40, 4\); give a PIL image"),
        (np.zeros((3, 40, 40), np.uint8), r"got uint8 \(3, 40, 40\); put the channels last"),
        (np.zeros((40, 40, 3)), r"got float64 \(40, 40, 3\); scale to 0-255"),
        ([np.zeros((40, 40, 3), np.int64)], r"got int64 \(40, 40, 3\)$"),
        ([[1, 2]], r"an image is pixels .* got list '\[1, 2\]'"),
        ([None], "got NoneType 'None'"),
        (3, "images are one image or a list of them .* got int '3'"),
        ({"a.png": 1}, "got dict"),
        (None, "got NoneType"),
    ],
)
def test_what_arrived_is_named(model: OnnxClassifier, wrong: Any, told: str):
    with pytest.raises(UsageError, match=told):
        model.predict(wrong)


def test_prepare_is_the_one_preprocessing(model: OnnxClassifier):
    image = pictures(1)[0]
    np.testing.assert_array_equal(model.prepare(image), preprocess(image, SPEC))


@pytest.mark.parametrize(("crops", "number"), [("flip", 2), ("ten", 10)])
def test_views_are_averaged(tmp_path: Path, crops: str, number: int):
    file = write_tiny(tmp_path / "tiny.onnx", tiny_facts(test_crops=crops))
    model = OnnxClassifier(file, device="cpu")
    images = pictures(4)
    views = [crops_of(prepare(image, SPEC), SPEC, crops) for image in images]
    answers = model.predict(images, test_crops="run", maps=True)
    for view, answer in zip(views, answers, strict=True):
        assert len(view) == number
        np.testing.assert_allclose(answer.probs, expected_probs(view).mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(np.exp(answer.logits), answer.probs, atol=1e-9)
        np.testing.assert_array_equal(answer.crop, view[0])
        assert answer.maps is not None
        np.testing.assert_array_equal(answer.maps, model.run(view[:1], maps=True).maps[0])  # type: ignore[index]
    if crops == "ten":  # the tiny model sees no difference in a mirror image
        assert not np.allclose(model.predict(images)[0].probs, answers[0].probs, atol=1e-4)


# Batches and threads.


def test_pictures_are_shown_in_real_batches(model: OnnxClassifier, monkeypatch: pytest.MonkeyPatch):
    sizes = count_runs(model, monkeypatch)
    images = pictures(70)
    assert len(model.predict(images, batch_size=32)) == 70
    assert sizes == [32, 32, 6]
    sizes.clear()
    model.predict(images[:7], batch_size=32, test_crops="ten")
    assert sizes == [30, 30, 10]
    sizes.clear()
    model.predict(images[:2], batch_size=4, test_crops="ten")
    assert sizes == [10, 10]


def test_batch_size_and_threads_change_nothing(model: OnnxClassifier, monkeypatch: pytest.MonkeyPatch):
    images = pictures(23)
    wanted = np.stack([answer.probs for answer in model.predict(images, batch_size=23)])
    for cores in (1, 2, 8):
        monkeypatch.setattr(apps.runtime.batching, "core_count", lambda cores=cores: cores)
        for size in (1, 5, 64):
            found = np.stack([answer.probs for answer in model.predict(images, batch_size=size)])
            np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_no_pictures_no_answers(model: OnnxClassifier):
    assert model.predict([]) == []
    assert model.run(np.zeros((0, 32, 32, 3), np.uint8)).probs.shape == (0, 8)


def test_eight_threads_get_their_own_answers(model: OnnxClassifier):
    images = pictures(64)
    wanted = expected_probs(np.stack([preprocess(image, SPEC) for image in images]))
    start = threading.Barrier(8)

    def ask(worker: int) -> float:
        start.wait()
        rows = range(worker, 64, 8)
        found = [model.predict([images[row]])[0].probs for row in rows for _ in range(5)]
        return float(np.abs(np.stack(found) - np.repeat(wanted[list(rows)], 5, axis=0)).max())

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(ask, range(8))) < 1e-6


def test_a_bad_picture_is_named_and_leaves_no_thread(model: OnnxClassifier, tmp_path: Path):
    file = tmp_path / "page.jpg"
    file.write_bytes(b"<html>404</html>")
    before = threading.active_count()
    with pytest.raises(BadImageError, match=r"page\.jpg: a web page"):
        model.predict([*pictures(40), file, *pictures(40)], batch_size=8)
    assert threading.active_count() == before


# What it refuses.


def test_pictures_that_are_none(model: OnnxClassifier):
    image = pictures(1)[0]
    for wrong in (image[:, :, 0], image.astype(np.float32) / 255, np.zeros((0, 9, 3), np.uint8)):
        with pytest.raises(UsageError, match=r"RGB, uint8 \(H, W, 3\)"):
            model.predict([wrong])
        with pytest.raises(UsageError, match=r"RGB, uint8 \(H, W, 3\)"):
            model.prepare(wrong)


def test_batches_of_another_shape(model: OnnxClassifier):
    good = np.zeros((2, 32, 32, 3), np.uint8)
    for wrong in (good[0], good.transpose(0, 3, 1, 2), good[:, :-1], good.astype(np.float32)):
        with pytest.raises(UsageError, match=r"a batch for tiny is uint8 \(N, 32, 32, 3\), got"):
            model.run(wrong)


def test_options_that_cannot_be_right(model: OnnxClassifier):
    with pytest.raises(UsageError, match="'five' is not offered; choose from center, flip, ten, run"):
        model.predict(pictures(1), test_crops="five")
    with pytest.raises(UsageError, match="batch_size must be at least 1"):
        model.predict(pictures(1), batch_size=0)
    with pytest.raises(UsageError, match="threads must be 0"):
        OnnxClassifier(model.path, device="cpu", threads=-1)


def test_memory_that_is_missing_is_told_with_remedies(model: OnnxClassifier, monkeypatch: pytest.MonkeyPatch):
    def run(names: list[str], feed: dict[str, np.ndarray], options: Any) -> Any:
        raise RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer")

    monkeypatch.setattr(model, "_session", SimpleNamespace(run=run))
    with pytest.raises(ResourceError, match=r"not enough memory to run it on 9 images.*smaller --batch_size"):
        model.run(np.zeros((9, 32, 32, 3), np.uint8))


# Several models.


def test_models_with_the_same_classes_stand_side_by_side(tmp_path: Path):
    files = [write_tiny(tmp_path / f"{seed}.onnx", seed=seed) for seed in range(2)]
    check_same_classes([OnnxClassifier(file, device="cpu") for file in files])
    check_same_classes([])


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (GROUPS[:7], "8 and 7, the second lacks 60[+] and adds nothing"),
        ((*GROUPS[:7], "55+"), "8 and 8, the second lacks 60[+] and adds 55[+]"),
        (GROUPS[::-1], "8 and 8, in another order"),
    ],
)
def test_models_with_other_classes_do_not(tmp_path: Path, names: tuple[str, ...], told: str):
    one = OnnxClassifier(write_tiny(tmp_path / "one.onnx"), device="cpu")
    two = OnnxClassifier(write_tiny(tmp_path / "two.onnx", tiny_facts(class_names=names)), device="cpu")
    with pytest.raises(ModelFileError, match=rf"one\.onnx and .*two\.onnx have different classes.*{told}"):
        check_same_classes([one, one, two])


def test_predicting_needs_no_torch(tmp_path: Path):
    """In a process of its own: torch, timm, albumentations and gradio stay out, and nothing is printed."""
    file, picture = write_tiny(tmp_path / "tiny.onnx"), tmp_path / "face.png"
    cv2.imwrite(str(picture), pictures(1)[0])
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from apps.runtime.session import OnnxClassifier\n"
        "assert 'onnxruntime' not in sys.modules, 'the runtime is loaded before it is needed'\n"
        "answer = OnnxClassifier(sys.argv[1]).predict([Path(sys.argv[2])], maps=True)[0]\n"
        "assert answer.class_name and answer.maps is not None\n"
        "guests = {'torch', 'torchvision', 'timm', 'albumentations', 'gradio', 'sklearn'}\n"
        "sys.exit(', '.join(guests & set(sys.modules)) or 0)\n"
    )
    words = [sys.executable, "-W", "error", "-c", code, str(file), str(picture)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
