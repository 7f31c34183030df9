import itertools

import numpy as np
import pytest
import torch

from finegrained.heads.dfl_init import DetectorInit, PeakVectors, class_filters, cluster_centres, peak_cells
from finetune.errors import UsageError


def map_of(energy):
    """A map (1, 3, h, w) whose vectors point one way and have these lengths."""
    direction = torch.tensor([2.0, -1.0, 2.0]) / 3
    return direction[None, :, None, None] * torch.tensor(energy)[None, None]


def peaks_by_loops(energy, peaks, nms):
    """Go through the places from strong to weak; keep local maxima that no kept one has in its window."""
    height, width = energy.shape
    reach = nms // 2

    def around(row, column):
        return [
            (y, x)
            for y in range(max(0, row - reach), min(height, row + reach + 1))
            for x in range(max(0, column - reach), min(width, column + reach + 1))
        ]

    kept = []
    places = sorted(itertools.product(range(height), range(width)), key=lambda place: -energy[place])
    for place in places:
        summit = energy[place] > 0 and all(energy[near] <= energy[place] for near in around(*place))
        if summit and not set(around(*place)) & set(kept) and len(kept) < peaks:
            kept.append(place)
    return kept


def test_the_strongest_local_maxima_are_kept():
    energy = [[9.0, 8.0, 0.1, 0.2], [7.0, 6.0, 0.1, 3.0], [0.1, 0.1, 0.1, 2.0], [5.0, 0.1, 0.1, 0.1]]
    assert peak_cells(map_of(energy), 10, 3)[0].nonzero().tolist() == [[0, 0], [1, 3], [3, 0]]
    assert peak_cells(map_of(energy), 2, 3)[0].nonzero().tolist() == [[0, 0], [3, 0]]
    assert peak_cells(map_of(energy), 1, 3)[0].nonzero().tolist() == [[0, 0]]
    assert peak_cells(map_of(energy), 3, 1)[0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0]]


@pytest.mark.parametrize("nms", [1, 3, 5])
def test_peaks_equal_a_plain_search_on_every_kind_of_map(nms):
    generator = torch.Generator().manual_seed(nms)
    for shape in [(7, 9), (4, 4), (1, 6), (2, 2)]:
        for levels in (3, 10_000):  # few levels: many ties
            energy = torch.randint(0, levels, shape, generator=generator).float()
            found = peak_cells(map_of(energy.tolist()), 4, nms)[0]
            length = torch.linalg.vector_norm(map_of(energy.tolist()), dim=1)[0]
            assert sorted(map(tuple, found.nonzero().tolist())) == sorted(peaks_by_loops(length, 4, nms))


def test_an_even_wall_gives_places_that_do_not_overlap_and_an_empty_map_none():
    kept = peak_cells(torch.ones(1, 2, 6, 6), 100, 3)[0].nonzero()
    assert kept.tolist()[0] == [0, 0]
    assert all((a - b).abs().max() > 1 for a, b in itertools.combinations(kept, 2))
    assert peak_cells(torch.zeros(2, 2, 6, 6), 10, 3).sum() == 0
    assert peak_cells(torch.full((1, 2, 3, 3), float("inf")), 10, 3).sum() == 0


def test_every_picture_has_peaks_of_its_own():
    maps = torch.cat([map_of([[1.0, 0.0, 0.0, 2.0]]), map_of([[0.0, 3.0, 0.0, 0.0]])])
    assert peak_cells(maps, 5, 3).nonzero().tolist() == [[0, 0, 0], [0, 0, 3], [1, 0, 1]]
    assert peak_cells(maps.bfloat16(), 5, 3).nonzero().tolist() == [[0, 0, 0], [0, 0, 3], [1, 0, 1]]


def planted_maps(directions, pictures, seed):
    """Maps (n, C, 8, 8) with each of the directions once, strongly, over faint noise."""
    generator = torch.Generator().manual_seed(seed)
    maps = 0.05 * torch.randn(pictures, directions.shape[1], 8, 8, generator=generator)
    for picture in maps:
        places = torch.randperm(4, generator=generator)
        for direction, place in zip(directions, places, strict=False):
            row, column = 4 * (place // 2) + 1, 4 * (place % 2) + 1
            picture[:, row, column] += direction * (5 + torch.rand(1, generator=generator))
    return maps


def test_k_means_finds_the_planted_parts_of_every_class():
    parts = torch.eye(12).view(4, 3, 12)  # four classes with three parts each, all at right angles
    found = PeakVectors(DetectorInit(detectors=3, peaks=3))
    for index in (2, 0, 3, 1):
        found.add(planted_maps(parts[index], 6, seed=index), torch.full((6,), index))
    filters = class_filters(found, range(4))
    for index in range(4):
        centres = torch.from_numpy(filters[index])
        assert centres.norm(dim=1).numpy() == pytest.approx((2 / 12) ** 0.5)
        likeness = parts[index] @ (centres / centres.norm(dim=1, keepdim=True)).T
        assert (likeness.max(1).values > 0.99).all()
        assert sorted(likeness.argmax(1).tolist()) == [0, 1, 2]


def test_normalised_vectors_forget_their_strength_and_raw_centres_keep_their_length():
    maps = torch.cat([map_of([[4.0]]), map_of([[8.0]])])
    target = torch.zeros(2, dtype=torch.int64)

    def length(**options):
        found = PeakVectors(DetectorInit(detectors=1, nms=1, **options))
        found.add(maps, target)
        return np.linalg.norm(class_filters(found, [0])[0])

    assert length(scale="raw") == pytest.approx(1)
    assert length(scale="raw", normalise=False) == pytest.approx(6)
    assert length(normalise=False) == pytest.approx((2 / 3) ** 0.5)
    assert length(gain=2.5) == pytest.approx(2.5 * (2 / 3) ** 0.5)


def test_a_filter_of_kaiming_length_answers_like_the_spread_of_random_filters():
    place = torch.rand(64, generator=torch.Generator().manual_seed(0))
    found = PeakVectors(DetectorInit(detectors=1))
    found.add(place.view(1, 64, 1, 1), torch.zeros(1, dtype=torch.int64))
    answer = float(torch.from_numpy(class_filters(found, [0])[0])[0] @ place)
    random = torch.randn(20_000, 64, generator=torch.Generator().manual_seed(1)) * (2 / 64) ** 0.5
    assert answer == pytest.approx((2 / 64) ** 0.5 * float(place.norm()), rel=1e-5)
    assert answer == pytest.approx(float((random @ place).std()), rel=0.03)


def test_a_class_with_few_vectors_repeats_them_with_a_little_noise():
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], np.float32)
    centres = cluster_centres(vectors, 5, seed=3)
    assert centres[:2].tolist() == [[1, 0], [0, 1]]  # as they came, each once
    assert np.abs(centres - centres[[0, 1, 0, 1, 0]]).max() < 0.05
    assert len(np.unique(centres, axis=0)) == 5
    assert np.array_equal(centres, cluster_centres(vectors, 5, seed=3))
    assert not np.array_equal(centres, cluster_centres(vectors, 5, seed=4))


def test_vectors_that_hardly_differ_count_as_one_and_close_ones_as_two():
    nearly = np.ones((20, 8), np.float32) + 1e-7 * np.arange(20, dtype=np.float32)[:, None]
    assert len(np.unique(nearly, axis=0)) > 3
    centres = cluster_centres(nearly, 3, seed=0)
    assert 0.001 < np.abs(centres - 1).max() < 0.1  # not three times the same filter
    close = np.array([[1, 0], [1, 1e-4], [0, 1], [0.5, 0.5]], np.float32)
    centres = cluster_centres(close, 4, seed=0)
    assert sorted(map(tuple, centres.round(5).tolist())) == [(0, 1), (0.5, 0.5), (1, 0), (1, 1e-4)]


def test_a_class_without_vectors_has_no_filters():
    found = PeakVectors(DetectorInit(detectors=2))
    found.add(torch.cat([map_of([[1.0]]), map_of([[0.0]])]), torch.tensor([0, 2]))
    assert list(class_filters(found, range(3))) == [0]


def test_filters_depend_on_the_seed_and_on_nothing_else():
    maps = torch.rand(30, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    target = torch.arange(30) % 2

    def filters(seed, batch, classes=(0, 1)):
        found = PeakVectors(DetectorInit(detectors=4, seed=seed), limit=25)  # fewer than there are
        for start in range(0, 30, batch):
            found.add(maps[start : start + batch], target[start : start + batch])
        return class_filters(found, classes)

    before, state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = filters(0, 30)
    assert np.array_equal(first[1], filters(0, 30)[1])
    assert np.array_equal(first[1], filters(0, 7)[1])  # however the images are batched
    assert np.array_equal(first[1], filters(0, 30, classes=(1,))[1])
    assert not np.array_equal(first[1], filters(1, 30)[1])
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(state, np.random.get_state()[1])


def test_of_a_large_class_a_uniform_sample_is_kept_in_order():
    def sample(seed):
        found = PeakVectors(DetectorInit(seed=seed, nms=1, normalise=False), limit=20)
        for value in range(1, 101):
            found.add(torch.full((1, 1, 1, 1), float(value)), torch.tensor([5]))
        return found.of_class(5)[:, 0]

    samples = np.array([sample(seed) for seed in range(30)])
    assert samples.shape == (30, 20)
    assert (np.diff(samples, axis=1) > 0).all()
    assert abs(samples.mean() - 50.5) < 4  # the standard error is 1.1


def test_what_cannot_be_right_is_refused_all_at_once():
    with pytest.raises(
        UsageError, match=r"detectors.*got 0; peaks.*got 0; nms must be odd.*got 4; init_gain"
    ):
        DetectorInit(detectors=0, peaks=0, nms=4, gain=0.0)
    with pytest.raises(UsageError, match="kmeans_seed must not be negative, got -1"):
        DetectorInit(seed=-1)
