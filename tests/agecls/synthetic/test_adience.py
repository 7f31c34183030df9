"""The made-up Adience: the real layout, the same bytes from the same seed, faces that show their age."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from agecls.data.adience import AdienceReading, read_adience
from agecls.data.folds import make_splits, missing_classes
from agecls.synthetic.adience import write_lookalike_adience
from agecls.synthetic.person import GROWTH, draw_person, draw_shot
from agecls.synthetic.portrait import render
from finetune.errors import UsageError
from finetune.experiments.data_checks import equal_contents


@pytest.fixture(scope="module")
def default_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adience")
    write_lookalike_adience(root)
    return root


@pytest.fixture(scope="module")
def reading(default_tree: Path) -> AdienceReading:
    return read_adience(default_tree)


def test_the_default_is_several_hundred_pictures_of_every_group_in_every_fold(reading: AdienceReading):
    report = reading.report
    assert 550 <= report.images <= 850
    assert (report.users, report.subjects, report.missing_images) == (40, 160, 0)
    assert min(min(row) for row in report.fold_by_group) >= 4
    assert max(report.per_group) / report.images < 1 / 3
    assert report.duplicates == report.typo_repaired == 0


def test_every_protocol_splits_it_without_leak_or_missing_class(reading: AdienceReading):
    for protocol in ("fixed", "grouped", "rotate"):
        splits = make_splits(reading.manifest, protocol)
        assert not any(
            "train" in line or "test" in line for line in missing_classes(splits, reading.manifest)
        )
    assert equal_contents(reading.manifest, splits).tested == []


def test_pictures_are_square_colour_jpegs_of_the_size_asked(reading: AdienceReading):
    for row in range(0, len(reading.manifest), 97):
        data = reading.manifest.file(row).read_bytes()
        assert data[:2] == b"\xff\xd8"
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).shape == (64, 64, 3)


def test_the_same_arguments_write_the_same_bytes_and_another_seed_others(tmp_path: Path):
    files = {}
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        write_lookalike_adience(tmp_path / name, users=10, images_per_subject=1, image_size=16, seed=seed)
        found = sorted(file for file in (tmp_path / name).rglob("*") if file.is_file())
        files[name] = {str(file.relative_to(tmp_path / name)): file.read_bytes() for file in found}
    assert files["one"] == files["two"]
    assert files["one"].keys() != files["three"].keys()


def test_the_summary_counts_what_was_written(tmp_path: Path):
    summary = write_lookalike_adience(
        tmp_path, users=11, images_per_subject=1, image_size=16, edition="older", layouts=("aligned", "faces")
    )
    lines = [len((tmp_path / f"fold_{fold}_data.txt").read_text().splitlines()) - 1 for fold in range(5)]
    assert list(summary.rows_per_fold) == lines
    assert summary.rows == sum(lines) > summary.images
    for layout in ("aligned", "faces"):
        assert len(list((tmp_path / layout).rglob("*.jpg"))) == summary.images
        report = read_adience(tmp_path, layout=layout).report
        assert (report.images, report.missing_images) == (summary.images, 0)
        assert (report.users, report.subjects) == (summary.users, summary.subjects)
    assert report.typo_repaired > 0
    assert report.duplicates == summary.rows - summary.images


@pytest.mark.parametrize(
    ("choice", "complaint"),
    [
        ({"users": 9}, "users >= 10"),
        ({"images_per_subject": 0}, "images_per_subject >= 1"),
        ({"edition": "newest"}, "choose current or older"),
        ({"layouts": ("crops",)}, "choose among aligned, faces"),
    ],
)
def test_arguments_that_cannot_be_are_refused(tmp_path: Path, choice: dict[str, object], complaint: str):
    with pytest.raises(UsageError, match=complaint):
        write_lookalike_adience(tmp_path, **choice)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_every_feature_has_a_value_for_each_group():
    assert {len(values) for values in GROWTH.values()} == {8}


def test_features_grow_between_neighbouring_groups_without_a_jump():
    rng = np.random.default_rng(0)
    young, between, old = (draw_person(rng, maturity) for maturity in (0.0, 0.5, 1.0))
    assert young.feature("eye") > between.feature("eye") > old.feature("eye")
    assert between.feature("eye") == pytest.approx((young.feature("eye") + old.feature("eye")) / 2)


def test_a_person_drawn_in_the_same_shot_is_the_same_picture():
    rng = np.random.default_rng(1)
    person, shot = draw_person(rng, 4.2), draw_shot(rng)
    assert np.array_equal(render(person, shot, 48), render(person, shot, 48))
    assert not np.array_equal(render(person, shot, 48), render(person, draw_shot(rng), 48))


@pytest.mark.parametrize("maturity", [-0.4, 0.0, 3.5, 7.4])
@pytest.mark.parametrize("image_size", [16, 65])
def test_any_age_at_any_size_can_be_drawn(maturity: float, image_size: int):
    rng = np.random.default_rng(2)
    image = render(draw_person(rng, maturity), draw_shot(rng), image_size)
    assert image.shape == (image_size, image_size, 3)
    assert image.dtype == np.uint8
    assert image.std() > 10


def test_pictures_tell_the_groups_apart_but_not_perfectly(reading: AdienceReading):
    """A nearest-centroid guess on small images, people apart, beats chance and stays far from perfect."""
    manifest = reading.manifest
    pixels = np.stack(
        [
            cv2.resize(cv2.imread(str(manifest.file(row))), (16, 16), interpolation=cv2.INTER_AREA).reshape(
                -1
            )
            for row in range(len(manifest))
        ]
    ).astype(np.float64)
    split = make_splits(manifest)[0]
    train = manifest.label[split.train]
    centroids = np.stack([pixels[split.train][train == group].mean(axis=0) for group in range(8)])
    distance = ((pixels[split.test][:, None] - centroids) ** 2).sum(axis=2)
    accuracy = (distance.argmin(axis=1) == manifest.label[split.test]).mean()
    assert 0.2 < accuracy < 0.8
