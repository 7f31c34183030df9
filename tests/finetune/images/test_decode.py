from __future__ import annotations

import io
import pickle
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from finetune.errors import UsageError
from finetune.images.decode import BadImageError, decode_content, decode_image, find_bad_images
from finetune.images.streams.guard import decode_guarded
from tests.finetune.pictures import smooth_picture

RGB = smooth_picture(0, 24, 18)
# What the viewer sees for each EXIF orientation, from the stored pixels.
UPRIGHT = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, 1),
}


def encode(picture: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(stream, kind, **options)
    return stream.getvalue()


def refusal(content: bytes | Path, **options: int) -> str:
    with pytest.raises(BadImageError) as caught:
        decode_image(content, **options)
    return caught.value.reason


def test_rgb_pixels_come_back_exactly_and_writable() -> None:
    pixels = decode_image(encode(RGB))
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, RGB)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encode(RGB, kind, exif=exif, **options)
    np.testing.assert_array_equal(decode_image(content), UPRIGHT[orientation](RGB))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_orientation_agrees_with_pillows_own_transposition(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(RGB, "JPEG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(decode_image(content), np.asarray(expected))


def test_grey_is_repeated_over_three_channels() -> None:
    grey = RGB[:, :, 0]
    np.testing.assert_array_equal(decode_image(encode(grey)), np.repeat(grey[:, :, None], 3, axis=2))


def test_one_bit_becomes_black_and_white() -> None:
    bits = RGB[:, :, 0] > 100
    expected = np.where(bits[:, :, None], 255, 0) * np.ones(3)
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(bits))), expected)


def test_palette_gives_the_colours_of_its_palette() -> None:
    palette = Image.fromarray(RGB).quantize(16)
    np.testing.assert_array_equal(decode_image(encode(palette)), np.asarray(palette.convert("RGB")))


def test_cmyk_jpeg_keeps_its_polarity() -> None:
    white = Image.new("CMYK", (16, 16), (0, 0, 0, 0))
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert decode_image(encode(white, "JPEG")).min() >= 250
    np.testing.assert_allclose(decode_image(encode(cyan, "TIFF"))[0, 0], [0, 255, 255])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_mid_grey(mode: str) -> None:
    alpha = np.linspace(0, 255, RGB[:, :, 0].size).reshape(RGB.shape[:2]).astype(np.uint8)
    image = Image.fromarray(RGB).convert(mode[:-1])
    image.putalpha(Image.fromarray(alpha))
    colour = np.asarray(image.convert("RGBA"))[:, :, :3]
    share = alpha[:, :, None] / 255
    expected = share * colour + (1 - share) * 128
    np.testing.assert_allclose(decode_image(encode(image)), expected, atol=1)


def test_transparent_palette_entry_becomes_mid_grey() -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    np.testing.assert_array_equal(decode_image(encode(image, "GIF", transparency=1))[0, 0], [128, 128, 128])


def test_sixteen_bit_grey_is_divided_by_257() -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for kind in ("PNG", "TIFF"):
        pixels = decode_image(encode(ramp, kind))
        np.testing.assert_array_equal(pixels[:, :, 0], np.round(ramp / 257))
        assert (pixels == 255).mean() < 0.01


def test_sixteen_bit_portable_greymap_is_divided_by_257() -> None:
    ramp = np.arange(0, 65536, 257, dtype=">u2").reshape(16, 16)
    pixels = decode_image(b"P5 16 16 65535\n" + ramp.tobytes())
    np.testing.assert_array_equal(pixels[:, :, 1].ravel(), np.arange(256))


@pytest.mark.parametrize(("dtype", "word"), [(np.float32, "floating-point"), (np.int32, "32-bit")])
def test_pixels_without_an_agreed_range_are_refused(dtype: type, word: str) -> None:
    assert word in refusal(encode(np.ones((16, 16), dtype), "TIFF"))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame_and_a_notice(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    notices: list[str] = []
    np.testing.assert_array_equal(decode_image(content, notices=notices)[0, 0], [255, 0, 0])
    assert len(notices) == 1
    assert "first" in notices[0]
    still: list[str] = []
    decode_image(encode(RGB), notices=still)
    assert still == []


def test_content_decides_not_the_extension(tmp_path: Path) -> None:
    file = tmp_path / "really a png.jpg"
    file.write_bytes(encode(RGB))
    np.testing.assert_array_equal(decode_image(file), RGB)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"\n <!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"plain words, no image", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n", "not an image"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_reason(content: bytes, word: str) -> None:
    assert word in refusal(content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "WEBP"])
def test_a_truncated_stream_is_refused(kind: str) -> None:
    content = encode(smooth_picture(1, 200, 200), kind)
    assert refusal(content[: len(content) * 6 // 10])


def test_a_png_with_flipped_bits_is_refused() -> None:
    content = bytearray(encode(smooth_picture(1, 100, 100)))
    content[len(content) // 2] ^= 0xFF
    assert "damaged" in refusal(bytes(content))


@pytest.mark.parametrize(("shape", "ok"), [((8, 8), True), ((7, 100), False), ((100, 7), False)])
def test_a_side_under_eight_pixels_is_refused(shape: tuple[int, int], ok: bool) -> None:
    content = encode(smooth_picture(2, *shape))
    if ok:
        assert decode_image(content).shape == (*shape, 3)
    else:
        assert "at least 8" in refusal(content)


@pytest.mark.alone
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [7_100, 10_000, 20_000])
def test_too_many_pixels_are_refused_on_the_header_alone(side: int) -> None:
    bomb = encode(Image.new("1", (side, side)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    reason = refusal(bomb)
    assert time.perf_counter() - start < 0.2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000
    assert "50" in reason
    assert "megapixels" in reason


def test_the_pixel_limit_can_be_lowered() -> None:
    assert "limit" in refusal(encode(RGB), max_pixels=RGB.shape[0] * RGB.shape[1] - 1)
    decode_image(encode(RGB), max_pixels=RGB.shape[0] * RGB.shape[1])


def test_missing_folder_and_unreadable_files_are_refused_with_their_name(tmp_path: Path) -> None:
    for file in (tmp_path / "missing.jpg", tmp_path):
        with pytest.raises(BadImageError, match=file.name) as caught:
            decode_image(file)
        assert caught.value.path == str(file)


def test_strange_file_names_are_read(tmp_path: Path) -> None:
    for name in ("Zoë und Ödön 写真.jpg", "a b\tc.png", "x" * 251 + ".png"):
        (tmp_path / name).write_bytes(encode(RGB))
        np.testing.assert_array_equal(decode_image(tmp_path / name), RGB)


def test_pillows_truncation_switch_is_noticed_not_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for decode in (decode_image, decode_guarded):
        with pytest.raises(UsageError, match="LOAD_TRUNCATED_IMAGES"):
            decode(encode(RGB))


def test_pillows_settings_are_left_alone_in_many_threads() -> None:
    before = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
    good = encode(smooth_picture(3, 80, 80), "JPEG")
    expected = decode_image(good)
    contents = [good, good[:500], b"", good] * 20

    def attempt(content: bytes) -> np.ndarray | None:
        try:
            return decode_image(content)
        except BadImageError:
            return None

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(attempt, contents))
    for content, result in zip(contents, results, strict=True):
        assert (result is not None) == (content is good)
        if result is not None:
            np.testing.assert_array_equal(result, expected)
    assert before == (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(BadImageError("a.jpg", "broken")))
    assert (error.path, error.reason, error.exit_code) == ("a.jpg", "broken", 3)


@pytest.mark.parametrize("workers", [1, 3])
def test_bad_images_are_listed_in_order_with_reasons(tmp_path: Path, workers: int) -> None:
    contents = [encode(RGB), b"", encode(RGB)[:60], encode(RGB), b"<html>"]
    files = [tmp_path / f"{number}.png" for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    bad = find_bad_images(files, workers=workers)
    assert [file for file, _ in bad] == [files[1], files[2], files[4]]
    assert "empty" in bad[0][1]
    assert "web page" in bad[2][1]


@pytest.mark.skipif(sys.platform != "linux", reason="counts open descriptors in /proc")
def test_no_file_stays_open(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(encode(RGB))
    bad.write_bytes(encode(RGB)[:60])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        decode_image(good)
        with pytest.raises(BadImageError):
            decode_image(bad)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.real_data
def test_real_photographs_decode_to_pillows_pixels(real_data: Path) -> None:
    files = sorted((real_data / "fgnet" / "images").iterdir())[:20]
    for file in files:
        np.testing.assert_array_equal(decode_image(file), np.asarray(Image.open(file).convert("RGB")))


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer.*git lfs pull"),
        (b"%PDF-1.4\n", "PDF document"),
        (b"\xff\x0a\xfa", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n", "JPEG XL"),
    ],
)
def test_other_files_under_an_image_name_are_named(start: bytes, reason: str):
    with pytest.raises(BadImageError, match=reason):
        decode_content(start + bytes(100), "a.jpg")
