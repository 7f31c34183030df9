"""Images cut into N x N regions and put together in another order, with the order known exactly.

A plan of a batch is int64 (B, N, N): plan[b, r, c] is the number of the region of image b that comes to lie
in row r, column c, regions being numbered row by row from 0. It is drawn on the CPU by numpy, so that equal
generators give equal plans on every device; the images are rearranged where they lie.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.errors import UsageError

MARGIN = 10  # pixels that the released code cuts from every side before it makes regions


def jittered_plan(count: int, regions: int, neighbourhood: int, generator: np.random.Generator) -> np.ndarray:
    """Return plans (count, N, N) by the paper's rule: every row, then every column, sorts jittered places.

    q_{j,i} = i + r with r ~ U(-k, k) is sorted to give sigma_j^row, and likewise sigma_i^col, so that
    |sigma_j^row(i) - i| < 2k and |sigma_i^col(j) - j| < 2k. Each row and each column has its own order.

    Chance may leave every region in its place: at N = 2 each of four pairs keeps its order with probability
    23/32 for k = 2 and 7/8 for k = 1, so that 27 % and 59 % of the plans change nothing; at N = 7 practically
    none.

    Args:
        count: how many plans.
        regions: N >= 2, regions along each side.
        neighbourhood: k in [1, N]; a region moves by less than 2k places along either side.
        generator: the only source of chance.

    Returns:
        int64; see the module. Each plan holds every region once.

    Raises UsageError when N or k lies outside its range.

    >>> jittered_plan(1, 2, 1, np.random.default_rng(0)).shape
    (1, 2, 2)

    Source: Chen, Bai, Zhang, Mei, "Destruction and Construction Learning for Fine-Grained Image Recognition",
    CVPR 2019, Eqs. 1 and 2. The paper sends region (i, j) to (sigma_j^row(i), sigma_i^col(j)). Read literally
    two regions can claim one place, so we take the column's order at the column that the region has moved to:
    every region keeps a place, and both bounds hold.
    """
    check_plan(regions, neighbourhood)
    in_rows = _jittered_orders((count, regions, regions), neighbourhood, generator)
    in_columns = _jittered_orders((count, regions, regions), neighbourhood, generator)
    numbered = in_rows + regions * np.arange(regions)[:, None]
    plan: np.ndarray = np.take_along_axis(numbered, in_columns.transpose(0, 2, 1), axis=1)
    return plan


def sequential_plan(
    count: int, regions: int, neighbourhood: int, generator: np.random.Generator
) -> np.ndarray:
    """Return plans (count, N, N) by the released code's rule, which is not the paper's.

    Regions are appended to their row from left to right, and after each the last k of the row are shuffled;
    finished rows are appended to the image, and after each the last k rows are shuffled as blocks. So all
    columns share one order, and a region may be carried along to the end: with N = 7 and k = 2 a region of a
    row moves by -1 in 42.9 %, not at all in 32.0 %, by +1 in 14.3 % and by +4 or more in 1.8 % of cases. At
    N = 2 an eighth of the plans change nothing.

    Args:
        count, regions, generator: as for `jittered_plan`.
        neighbourhood: k in [2, N]; the code's is 2.

    Returns:
        As for `jittered_plan`.

    Raises UsageError when N or k lies outside its range.

    Source: the code that the authors of `jittered_plan`'s source released.
    """
    check_plan(regions, neighbourhood, least=2)
    in_rows = _swapped_orders((count, regions, regions), neighbourhood, generator)
    blocks = _swapped_orders((count, 1, regions), neighbourhood, generator).transpose(0, 2, 1)
    numbered = in_rows + regions * np.arange(regions)[:, None]
    plan: np.ndarray = np.take_along_axis(numbered, blocks, axis=1)
    return plan


def check_plan(regions: int, neighbourhood: int, *, least: int = 1) -> None:
    """Raise UsageError unless N >= 2 and `least` <= k <= N."""
    if regions < 2:
        raise UsageError(f"head.options.regions must be at least 2, got {regions}")
    if not least <= neighbourhood <= regions:
        raise UsageError(
            f"head.options.neighbourhood must lie in [{least}, regions = {regions}], got {neighbourhood}"
        )


def inverse_plan(plan: np.ndarray) -> np.ndarray:
    """Return the plans (B, N, N) that undo the given ones.

    >>> inverse_plan(np.array([[[1, 2], [3, 0]]]))
    array([[[3, 0],
            [1, 2]]])
    """
    return np.argsort(plan.reshape(len(plan), -1), axis=1).reshape(plan.shape)


def shuffle_regions(images: Tensor, plan: Tensor) -> Tensor:
    """Return the images with their regions laid out as the plan says.

    Where N does not divide a side the image is first enlarged to the next size that it divides and scaled
    back in the end, which blurs it a little: choose a size that N divides (448 and 224 for 7).

    Args:
        images: (B, C, H, W), H and W at least N.
        plan: int64 (B, N, N) on the images' device; see the module.

    Returns:
        New images of the same size, type and memory format.

    Raises UsageError when a side is shorter than N.

    >>> shuffle_regions(torch.tensor([[[[1, 2], [3, 4]]]]), torch.tensor([[[3, 2], [1, 0]]])).tolist()
    [[[[4, 3], [2, 1]]]]
    """
    size, regions = _size(images), plan.shape[1]
    _check_size(size, regions)
    divisible = tuple(-(-side // regions) * regions for side in size)
    return _resize(_rearrange(_resize(images, divisible), plan), size)


def shuffle_regions_as_released(images: Tensor, plan: Tensor) -> Tensor:
    """Return the images shuffled as the released code does it: less a margin, by regions of whole pixels.

    10 px are cut from every side, the rest W' is cut at int(i W' / N), each region is resized to int(W' / N),
    and the mosaic to the image's size. So a shuffled image also differs from its original in scale.

    Args, Returns: as for `shuffle_regions`.

    Raises UsageError when less than N pixels are left of a side.

    Source: as for `sequential_plan`. It resizes regions by Lanczos' filter on whole numbers, we by the
    bicubic one on the normalised images.
    """
    regions = plan.shape[1]
    inner = images[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
    _check_size(_size(inner), regions, f" (less {MARGIN} px on every side)")
    for dim in (2, 3):
        length = inner.shape[dim] // regions
        bands = torch.split(inner, _band_sizes(inner.shape[dim], regions), dim)
        inner = torch.cat([_resize(band, _with_side(band, dim, length)) for band in bands], dim)
    return _resize(_rearrange(inner, plan), _size(images)).contiguous(memory_format=memory_format(images))


def nearest_regions(pictures: Tensor, originals: Tensor, regions: int) -> Tensor:
    """Return for each region of an image the number of the original's region nearest in mean colour.

    argmin_m |s(pictures)_n - s(originals)_m|, s being the sum over the channels of a region's mean; of equal
    distances the first counts. This is how the released code finds out where a shuffled region came from. It
    errs where two regions look alike, and one region of the original may be named twice or never.

    Args:
        pictures, originals: (B, C, H, W), normalised; the two may differ in size.
        regions: N.

    Returns:
        int64 (B, N * N), row by row.

    Source: as for `sequential_plan`, which compares the colours before normalisation: there the channels
    weigh alike, here as 1 / std, which for ImageNet's constants differ by two per cent.
    """
    distances = _brightness(pictures, regions)[:, :, None] - _brightness(originals, regions)[:, None]
    return distances.abs().argmin(2)


def memory_format(images: Tensor) -> torch.memory_format:
    """Return channels_last for images that lie so in memory, and contiguous_format otherwise."""
    if images.is_contiguous() or not images.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def _jittered_orders(shape: tuple[int, ...], reach: int, generator: np.random.Generator) -> np.ndarray:
    """Return, along the last axis, which item comes to each place."""
    return np.argsort(np.arange(shape[-1]) + generator.uniform(-reach, reach, shape), axis=-1)


def _swapped_orders(shape: tuple[int, ...], reach: int, generator: np.random.Generator) -> np.ndarray:
    orders = np.broadcast_to(np.arange(shape[-1]), shape).copy()
    for end in range(2, shape[-1] + 1):
        window = orders[..., max(end - reach, 0) : end]
        generator.permuted(window, axis=-1, out=window)
    return orders


def _rearrange(images: Tensor, plan: Tensor) -> Tensor:
    count, channels, height, width = images.shape
    regions = plan.shape[1]
    tiles = images.view(count, channels, regions, height // regions, regions, width // regions)
    picture = torch.arange(count, device=images.device)[:, None, None]
    chosen = tiles.permute(0, 2, 4, 1, 3, 5)[picture, plan // regions, plan % regions]
    mosaic = chosen.permute(0, 3, 1, 4, 2, 5).reshape(images.shape)
    return mosaic.contiguous(memory_format=memory_format(images))


def _brightness(images: Tensor, regions: int) -> Tensor:
    """Return the sum of the channels' means in each region, float32 (B, N * N)."""
    rows = torch.split(images.float().sum(1), _band_sizes(images.shape[2], regions), 1)
    by_row = torch.stack([row.mean(1) for row in rows], 1)
    columns = torch.split(by_row, _band_sizes(images.shape[3], regions), 2)
    return torch.stack([column.mean(2) for column in columns], 2).flatten(1)


def _band_sizes(length: int, regions: int) -> list[int]:
    """Return the widths between the cuts int(i length / N).

    >>> _band_sizes(428, 7)
    [61, 61, 61, 61, 61, 61, 62]
    """
    cuts = [length * place // regions for place in range(regions + 1)]
    return [end - start for start, end in pairwise(cuts)]


def _resize(images: Tensor, size: tuple[int, ...]) -> Tensor:
    if _size(images) == size:
        return images
    return F.interpolate(images, size, mode="bicubic", antialias=True)


def _size(images: Tensor) -> tuple[int, ...]:
    return tuple(images.shape[-2:])


def _with_side(images: Tensor, dim: int, length: int) -> tuple[int, ...]:
    size = list(images.shape)
    size[dim] = length
    return tuple(size[-2:])


def _check_size(size: tuple[int, ...], regions: int, remark: str = "") -> None:
    if min(size) < regions:
        raise UsageError(
            f"images of {size[0]} x {size[1]} px{remark} cannot be cut into {regions} x {regions} regions; "
            "use a smaller head.options.regions or a larger model.image_size"
        )
