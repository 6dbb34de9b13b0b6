"""One picture stored in every way that we know is read as the same pixels."""

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from picture_files import (
    colours_of,
    palette,
    planes,
    png,
    profile,
    saved,
    srgb,
    tiff,
)
from PIL import Image, ImageCms

from bspec_jax.data.decoding import decode, is_grey, to_mode
from bspec_jax.data.images import UnreadableError
from bspec_jax.storage.errors import UserError

RNG = np.random.default_rng(0)
# Asymmetric, and of few levels so that 2 and 4 bits hold the grey one.
RGB = RNG.integers(0, 256, (5, 7, 3), np.uint8)
GREY = (85 * RNG.integers(0, 4, (5, 7))).astype(np.uint8)
BINARY = (255 * RNG.integers(0, 2, (5, 7))).astype(np.uint8)
ALPHA = RNG.integers(0, 256, (5, 7), np.uint8)
ALPHA[0], ALPHA[1] = 0, 255
ORIENTATION = 274
# How a picture must lie in a file for a viewer to turn it upright.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def on_white(pixels, alpha):
    share = alpha / 255 if pixels.ndim == 2 else alpha[..., None] / 255
    return np.round(pixels * share + 255 * (1 - share)).astype(np.uint8)


# Of the Adobe RGB (1998) encoding, 4.3.5.3, adapted to D50 as its profile has them.
ADOBE = [
    (0.60974, 0.31111, 0.01947),
    (0.20528, 0.62567, 0.06087),
    (0.14919, 0.06322, 0.74457),
]
SRGB_D50 = [
    (0.43607, 0.22249, 0.01392),
    (0.38515, 0.71687, 0.09708),
    (0.14307, 0.06061, 0.71410),
]


def encoded(linear):
    """The sRGB curve, IEC 61966-2-1."""
    linear = np.clip(linear, 0, 1)
    low = linear <= 0.0031308
    return np.where(low, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


COLOURS, INDICES = colours_of(RGB)
LOSSLESS = {"lossless": True, "exact": True}
LOOK_LIKE_RGB = {
    "png": saved(RGB, "PNG"),
    "16 bits": png(RGB.astype(int) * 257, 16, 2),
    "16 bits, any lower ones": png(RGB.astype(int) * 256 + 77, 16, 2),
    "bmp": saved(RGB, "BMP"),
    "tiff": saved(RGB, "TIFF"),
    "tiff, lzw": saved(RGB, "TIFF", compression="tiff_lzw"),
    "tiff, deflate": saved(RGB, "TIFF", compression="tiff_adobe_deflate"),
    "webp": saved(RGB, "WEBP", **LOSSLESS),
    "jpeg 2000": saved(RGB, "JPEG2000"),
    "ppm": saved(RGB, "PPM"),
    "tga": saved(RGB, "TGA"),
    "qoi": saved(RGB, "QOI"),
    "opaque": saved(np.dstack([RGB, np.full_like(GREY, 255)]), "PNG"),
    "palette": palette(COLOURS, INDICES, "PNG"),
    "gif": palette(COLOURS, INDICES, "GIF"),
    "palette, tiff": palette(COLOURS, INDICES, "TIFF"),
    "palette, bmp": palette(COLOURS, INDICES, "BMP"),
    "sRGB profile": saved(RGB, "PNG", icc_profile=srgb()),
    "broken profile": saved(RGB, "PNG", icc_profile=b"no profile"),
    "profile for grey": saved(RGB, "PNG", icc_profile=profile(None, 1.8)),
    "gamma of sRGB": png(RGB, 8, 2, (b"gAMA", struct.pack(">I", 45455))),
    "gamma and sRGB": png(RGB, 8, 2, (b"sRGB", b"\0"),
                          (b"gAMA", struct.pack(">I", 100000))),
    "damaged exif": png(RGB, 8, 2, (b"eXIf", b"MM\0*\0\0\0\x08\0\x01no directory")),
    "orientation 9": saved(RGB, "PNG", exif=bytes.fromhex(
        "4d4d002a0000000800010112000300000001000900000000 0000".replace(" ", ""))),
}  # fmt: skip
LOOK_LIKE_GREY = {
    "png": saved(GREY, "PNG"),
    "2 bits": png(GREY // 85, 2, 0),
    "4 bits": png(GREY // 17, 4, 0),
    "16 bits": png(GREY.astype(int) * 257, 16, 0),
    "16 bits, any lower ones": png(GREY.astype(int) * 256 + 200, 16, 0),
    "rgb": saved(GREY[..., None].repeat(3, -1), "PNG"),
    "16 bits of rgb": png(GREY[..., None].repeat(3, -1).astype(int) * 257, 16, 2),
    "opaque": saved(np.dstack([GREY, np.full_like(GREY, 255)]), "PNG"),
    "opaque rgb": saved(
        np.dstack([GREY[..., None].repeat(3, -1), np.full_like(GREY, 255)]), "PNG"
    ),
    "palette": palette(np.arange(4)[:, None].repeat(3, 1) * 85, GREY // 85, "PNG"),
    "palette, reversed": palette(
        255 - np.arange(4)[:, None].repeat(3, 1) * 85, 3 - GREY // 85, "PNG"
    ),
    "gif": saved(GREY, "GIF"),
    "tiff": saved(GREY, "TIFF"),
    "tiff, white is zero": tiff(255 - GREY, 8, 0),
    "tiff, 16 bits": tiff(GREY.astype(int) * 257, 16, 1),
    "tiff, 16 bits, big-endian": tiff(GREY.astype(int) * 257, 16, 1, ">"),
    "tiff, 16 bits, white is zero": tiff(65535 - GREY.astype(int) * 257, 16, 0),
    "16 bits, jpeg 2000": saved(GREY.astype(np.uint16) * 257, "JPEG2000"),
    "16 bits, pgm": saved(GREY.astype(np.uint16) * 257, "PPM"),
    "webp": saved(GREY, "WEBP", **LOSSLESS),
    "profile of the same curve": saved(GREY, "PNG", icc_profile=srgb()),
}


@pytest.mark.parametrize("way", LOOK_LIKE_RGB)
def test_what_looks_alike_in_colour_is_alike(way):
    found = decode(LOOK_LIKE_RGB[way])
    assert found.mode == "RGB"
    assert_array_equal(found, RGB)
    assert not is_grey(LOOK_LIKE_RGB[way])


@pytest.mark.parametrize("way", LOOK_LIKE_GREY)
def test_what_looks_alike_in_grey_is_alike(way):
    assert is_grey(LOOK_LIKE_GREY[way])
    assert_array_equal(to_mode(decode(LOOK_LIKE_GREY[way]), 1), GREY)
    in_colour = to_mode(decode(LOOK_LIKE_GREY[way]), 3)
    assert_array_equal(in_colour, GREY[..., None].repeat(3, -1))


def test_colours_stored_apart():
    assert_array_equal(decode(planes(RGB)), RGB)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "PPM", "GIF", "PCX"])
def test_two_levels(form):
    stored = saved(Image.fromarray(BINARY).convert("1"), form)
    assert is_grey(stored)
    assert_array_equal(to_mode(decode(stored), 1), BINARY)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "JPEG", "MPO"])
def test_pictures_stand_upright(form, orientation):
    blocks = RGB.repeat(8, 0).repeat(8, 1)  # JPEG keeps those
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"exif": exif}
    options |= {"WEBP": LOSSLESS, "JPEG": {"quality": 100, "subsampling": 0}}.get(
        form, {}
    )
    if form == "MPO":
        options |= {"quality": 100, "subsampling": 0, "save_all": True,
                    "append_images": [Image.new("RGB", (8, 8))]}  # fmt: skip
    found = np.int32(decode(saved(STORED[orientation](blocks), form, **options)))
    assert found.shape == blocks.shape
    assert np.abs(found - blocks).max() <= (0 if form in ("PNG", "WEBP", "TIFF") else 3)


def test_an_orientation_in_xmp_or_in_compressed_tiff():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    stored = saved(STORED[6](RGB), "TIFF", exif=exif, compression="tiff_lzw")
    assert_array_equal(decode(stored), RGB)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="8"/></x:xmpmeta>'
    assert_array_equal(decode(saved(STORED[8](RGB), "WEBP", xmp=xmp, **LOSSLESS)), RGB)


def test_transparency_shows_white():
    both = np.dstack([RGB, ALPHA])
    for form, options in (
        ("PNG", {}),
        ("TIFF", {}),
        ("WEBP", LOSSLESS),
        ("TGA", {}),
        ("JPEG2000", {}),
        ("ICO", {}),
    ):
        found = decode(saved(both, form, **options))
        assert_array_equal(found, on_white(RGB, ALPHA), form)
    sixteen = png(both.astype(int) * 257, 16, 6)
    assert_array_equal(decode(sixteen), on_white(RGB, ALPHA))
    grey = np.dstack([GREY, ALPHA])
    for stored in (saved(grey, "PNG"), png(grey.astype(int) * 257, 16, 4)):
        assert is_grey(stored)
        assert_array_equal(to_mode(decode(stored), 1), on_white(GREY, ALPHA))
    # Whatever is stored below what is wholly transparent.
    other = both.copy()
    other[0, :, :3] = 99
    assert_array_equal(decode(saved(other, "PNG")), on_white(RGB, ALPHA))


def test_transparency_of_a_palette():
    colours, indices = colours_of(np.dstack([RGB, ALPHA]))
    stored = palette(
        colours[:, :3], indices, "PNG", transparency=colours[:, 3].tobytes()
    )
    assert_array_equal(decode(stored), on_white(RGB, ALPHA))
    shown = RGB.copy()
    shown[INDICES == 5] = 255
    for form in ("PNG", "GIF"):
        stored = palette(COLOURS, INDICES, form, transparency=5)
        assert_array_equal(decode(stored), shown, form)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_one_transparent_grey(bits):
    most = 2**bits - 1
    levels = np.round(GREY.astype(float) / 255 * most).astype(int)
    key = int(levels[1, 2])
    shown = np.where(levels == key, 255, np.round(levels / most * 255))
    stored = png(levels, bits, 0, (b"tRNS", struct.pack(">H", key)))
    assert_array_equal(decode(stored), shown)


@pytest.mark.parametrize("scale", [1, 257])
def test_one_transparent_colour(scale):
    pixels = RGB.copy()
    pixels[2, 3] = 0, 0, 1
    key = struct.pack(">HHH", *(pixels[2, 3].astype(int) * scale))
    stored = png(pixels.astype(int) * scale, 8 if scale == 1 else 16, 2, (b"tRNS", key))
    pixels[2, 3] = 255
    assert_array_equal(decode(stored), pixels)


def test_twelve_bits():
    levels = np.array([[0, 4095, 2048, 1000], [16, 32, 64, 128]])
    assert_array_equal(decode(tiff(levels, 12, 1)), levels >> 4)


def test_colours_of_a_profile_become_those_of_srgb():
    linear = (RGB / 255) ** (563 / 256) @ np.array(ADOBE)
    expected = encoded(linear @ np.linalg.inv(SRGB_D50)) * 255
    for form, options in (("PNG", {}), ("TIFF", {}), ("WEBP", LOSSLESS)):
        stored = saved(RGB, form, icc_profile=profile(ADOBE, 563 / 256), **options)
        assert np.abs(np.int32(decode(stored)) - expected).max() <= 2, form
    assert np.abs(expected - RGB).max() > 20
    grey = saved(GREY, "PNG", icc_profile=profile(None, 1.0))
    expected = encoded(GREY / 255) * 255
    assert is_grey(grey)
    assert np.abs(np.int32(decode(grey)) - expected).max() <= 2


def test_another_gamma():
    linear = png(RGB, 8, 2, (b"gAMA", struct.pack(">I", 100000)))
    assert_array_equal(decode(linear), np.round(255 * (RGB / 255) ** (1 / 2.2)))


def test_spaces_that_are_not_rgb():
    blocks = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 255]], np.uint8)
    blocks = blocks.reshape(2, 2, 3).repeat(8, 0).repeat(8, 1)
    cmyk = Image.fromarray(blocks).convert("CMYK")
    for stored in (saved(cmyk, "JPEG", quality=100), saved(cmyk, "TIFF")):
        assert np.abs(np.int32(decode(stored)) - blocks).max() <= 4
    ycbcr = saved(Image.fromarray(blocks).convert("YCbCr"), "TIFF")
    assert np.abs(np.int32(decode(ycbcr)) - blocks).max() <= 4
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    pale = 64 + blocks // 2  # saturated colours lie outside Lab's bytes
    lab = saved(to_lab.apply(Image.fromarray(pale)), "TIFF")
    assert np.abs(np.int32(decode(lab)) - pale).max() <= 6


NOISE = RNG.integers(0, 256, (40, 40, 3), np.uint8)
REFUSED = {
    "floats": (saved(RNG.random((4, 4), np.float32), "TIFF"), "floating-point"),
    "signed": (tiff(np.full((4, 4), 200), 8, 1, "<", (339, 2)), "signed integers"),
    "planes": (planes(RGB.astype(np.uint16) * 257), "stores each colour apart"),
    "32 bits": (saved(np.full((4, 4), 70000, np.int32), "TIFF"), "32-bit integers"),
    **{
        form: (
            saved(RGB, form, save_all=True, append_images=[Image.fromarray(255 - RGB)]),
            "holds 2 frames",
        )
        for form in ("GIF", "PNG", "WEBP", "TIFF")
    },
    "text": (b"<html>", "as an image: replace or remove it"),
    "nothing": (b"", "as an image"),
    "half a PNG": (saved(NOISE, "PNG")[:1000], "as an image"),
    "half a JPEG": (saved(NOISE, "JPEG")[:1000], "as an image"),
    "half a GIF": (saved(NOISE, "GIF")[:1000], "as an image"),
    "half a TIFF": (saved(NOISE, "TIFF")[:1000], "as an image"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_look_is_refused_in_a_line(what, tmp_path):
    data, message = REFUSED[what]
    path = tmp_path / "two\nlines.png"
    path.write_bytes(data)
    with pytest.raises(UnreadableError, match=message) as error:
        decode(path)
    assert "two\\nlines.png" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_suffix_may_lie_and_a_missing_file_is_no_damaged_one(tmp_path):
    (tmp_path / "a.jpg").write_bytes(saved(RGB, "PNG"))
    assert_array_equal(decode(tmp_path / "a.jpg"), RGB)
    with pytest.raises(UserError, match=r"cannot read \S*b.png: No such file") as error:
        decode(tmp_path / "b.png")
    assert not isinstance(error.value, UnreadableError)


FUZZED = [saved(RGB, form) for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")]
FUZZED += [LOOK_LIKE_GREY["tiff, 16 bits"], saved(np.dstack([RGB, ALPHA]), "PNG")]


@pytest.mark.filterwarnings("ignore")
@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    st.sampled_from(FUZZED),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4),
    st.integers(0, 3000),
)
def test_damage_gives_a_picture_or_a_line(stored, changes, length):
    data = bytearray(stored)
    for at, byte in changes:
        data[at % len(data)] = byte
    mode = "L"
    with contextlib.suppress(UnreadableError):  # and no other error
        mode = decode(bytes(data[: length or None]), "file").mode
    assert mode in ("L", "RGB")
