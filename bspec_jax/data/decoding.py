"""The one decoder of pictures: what looks alike in a viewer has equal pixels.

Orientation, transparency, palettes, depth and colour space are ways to store a picture,
and belong to none of its pixels:

- It stands upright, as its Exif or XMP orientation says.
- Transparent pixels show white below them.
- Colours are sRGB: those of an ICC profile, of CMYK, Lab, YCbCr or of another gamma
  (PNG) are converted.
- Of 16 bits, the upper 8 count.
- It has a single frame. Animations and files of several pages are refused; of the
  formats in `FIRST_FRAME`, a viewer shows the first.

What has no agreed look, such as floating-point pixels, is refused too.
"""

from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageCms

from bspec_jax.data.images import UnreadableError
from bspec_jax.data.names import shown
from bspec_jax.storage.errors import UserError

# Pillow's names of formats of pixels. It knows more, but those are drawings that other
# programs render (EPS), stubs, or formats of a single program.
FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG"),
    *("PPM", "QOI", "SGI", "SUN", "TGA", "TIFF", "WEBP"),
)
SUFFIXES = frozenset(
    (
        *(".apng", ".avif", ".bmp", ".dib", ".gif", ".ico", ".j2c", ".j2k", ".jfif"),
        *(".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm"),
        *(".pcx", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".ras", ".rgb", ".rgba"),
        *(".sgi", ".tga", ".tif", ".tiff", ".webp"),
    )
)
# Further frames are previews and other views (MPO), as phones and cameras add them.
FIRST_FRAME = ("MPO",)
GREY_MODES = ("1", "L", "LA", "I;16", "I;16L", "I;16B", "I;16N", "I")
ALIKE = 2  # levels of 255 by which conversions round differently
SRGB_GAMMA = 1 / 2.2
# Tags of TIFF and Exif.
BITS_PER_SAMPLE, PHOTOMETRIC, ORIENTATION, PLANES, SAMPLES = 258, 262, 274, 284, 339
SIGNED, APART = 2, 2  # values of SAMPLES and of PLANES
UPRIGHT = {  # how to turn a picture of an orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _RefusedError(Exception):
    """Why a picture cannot be shown, to go on after "cannot read FILE: it "."""


def decode(file: Path | bytes, name: str | None = None) -> Image.Image:
    """A stored picture as a viewer shows it, in mode L or RGB.

    Args:
      file: path, or content, of an image file in one of `FORMATS`, whatever its suffix.
      name: of the picture, for messages. Default: the path.

    Raises:
      UnreadableError: if it is not an image, damaged, or refused.
      UserError: if the file cannot be opened.
    """
    return _opened(file, name, _as_shown)


def is_grey(file: Path | bytes, name: str | None = None) -> bool:
    """Whether a picture shows no colour, however it is stored; errors as of `decode`.

    Decodes it only if it is stored as one that could have colour.
    """
    return _opened(file, name, _shows_grey)


def to_mode(picture: Image.Image, channels: int) -> Image.Image:
    """A decoded picture with 1 channel (grey) or 3 (RGB)."""
    mode = "L" if channels == 1 else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def _opened(file, name, use: Callable[[Image.Image], object]):
    stored = isinstance(file, bytes)
    name = shown(name or ("the picture" if stored else file))
    try:
        source = BytesIO(file) if stored else file
        with Image.open(source, formats=FORMATS) as picture:
            return use(picture)
    except MemoryError:
        raise
    except _RefusedError as error:
        raise UnreadableError(f"cannot read {name}: it {error}") from None
    except Exception as error:  # pillow's plugins raise many kinds for damaged files
        if isinstance(error, OSError) and error.errno:
            raise UserError(f"cannot read {name}: {error.strerror}") from None
        raise UnreadableError(
            f"cannot read {name} as an image: replace or remove it"
        ) from None


def _as_shown(picture):
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format not in FIRST_FRAME:
        raise _RefusedError(
            f"holds {frames} frames: save the one that you mean as a file of its own"
        )
    _check_samples(picture)
    stored_as = picture.tile[0].args if picture.tile else ""
    picture.load()  # tells of truncation, and of some metadata that follow the pixels
    profile, gamma = picture.info.get("icc_profile"), picture.info.get("gamma")
    colour, alpha = _split_alpha(picture, stored_as)
    if profile:
        colour = _converted(colour, profile)
    elif gamma and "srgb" not in picture.info and colour.mode in ("L", "RGB"):
        colour = _regraded(colour, gamma)
    if colour.mode == "LAB":
        colour = _lab_to_srgb().apply(colour)
    if colour.mode not in ("L", "RGB"):
        colour = colour.convert("RGB")
    if alpha is not None:
        white = Image.new(colour.mode, colour.size, "white")
        colour = Image.composite(colour, white, alpha)
    return _upright(colour, _orientation(picture))


def _check_samples(picture):
    """Refuses TIFF files of which pillow would show other numbers than they hold."""
    tags = getattr(picture, "tag_v2", {})
    signed = SIGNED in np.atleast_1d(tags.get(SAMPLES, 1))
    if signed and picture.mode != "I":  # of which pillow knows
        raise _RefusedError(
            "stores signed integers, of which no range is black to white: save it "
            "with 8 or 16 bits"
        )
    raw = any(tile.codec_name == "raw" for tile in picture.tile)
    bits = np.atleast_1d(tags.get(BITS_PER_SAMPLE, 8))
    if raw and tags.get(PLANES) == APART and bits.size > 1 and bits.max() > 8:
        raise _RefusedError(
            "stores each colour apart, in 16 bits without compression: save it with "
            "the colours of a pixel side by side"
        )


def _shows_grey(picture):
    if picture.mode in GREY_MODES:
        return True
    pixels = _as_shown(picture)
    if pixels.mode == "L":
        return True
    red, green, blue = pixels.split()
    differences = (ImageChops.difference(green, other) for other in (red, blue))
    return all(difference.getextrema()[1] <= ALIKE for difference in differences)


def _split_alpha(picture, stored_as):
    """The colours of a picture without its transparency, and its alpha or None.

    Args:
      stored_as: pillow's name of how the file stores the pixels.
    """
    if picture.mode.startswith("I;16"):
        return _upper_bits(picture)
    if picture.mode == "I" and picture.format == "PPM":  # 0..65535 by definition
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)), None
    if picture.mode in ("I", "F"):
        kind = "32-bit integers" if picture.mode == "I" else "floating-point numbers"
        raise _RefusedError(
            f"stores {kind}, of which no range is black to white: save it with 8 or 16 "
            "bits"
        )
    grey = picture.mode in ("1", "L", "LA")
    if not picture.has_transparency_data:
        if picture.mode in ("P", "PA", "RGBX"):
            return picture.convert("RGB"), None
        return (picture.convert("L") if grey else picture), None
    key = picture.info.get("transparency")
    if picture.mode in ("L", "RGB"):
        return picture, _all_but(picture, _in_bytes(key, stored_as))
    layered = picture.convert("RGBA")
    return layered.convert("L" if grey else "RGB"), layered.getchannel("A")


def _upper_bits(picture):
    """The upper 8 bits of grey levels, of 12 in some files of TIFF and else of 16."""
    levels = np.asarray(picture).astype(np.uint16)
    tags = getattr(picture, "tag_v2", {})
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
    pixels = (levels >> (bits - 8)).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == 0:  # white is zero
        pixels = 255 - pixels
    alpha = None
    if (key := picture.info.get("transparency")) is not None:
        alpha = Image.fromarray(np.where(levels == key, 0, 255).astype(np.uint8))
    return Image.fromarray(pixels), alpha


def _in_bytes(key, stored_as):
    """The transparent colour of a file of 2, 4, 8 or 16 bits, in 8 bits."""
    key = np.asarray(key)
    if stored_as == "RGB;16B":
        return key >> 8
    return key * {"L;2": 85, "L;4": 17}.get(stored_as, 1)


def _all_but(picture, key):
    """The alpha of a picture one of whose colours is transparent."""
    same = np.asarray(picture) == key
    transparent = same if same.ndim == 2 else same.all(-1)
    return Image.fromarray(np.where(transparent, 0, 255).astype(np.uint8))


def _converted(picture, profile):
    """The colours of an ICC profile in sRGB; an unusable one counts for nothing."""
    # A picture stored as grey may have a profile for RGB.
    for mode in dict.fromkeys((picture.mode, "RGB" if picture.mode == "L" else "")):
        if mode and (transform := _to_srgb(profile, mode)) is not None:
            shown_as = transform(picture.convert(mode))
            return shown_as.convert("L") if picture.mode == "L" else shown_as
    return picture


@lru_cache(maxsize=64)
def _to_srgb(profile: bytes, mode: str):
    """Converts pictures of a mode; None if the profile is for others."""
    try:
        opened = ImageCms.ImageCmsProfile(BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(opened, srgb, mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
    if mode in ("L", "RGB") and _changes_nothing(transform, mode):
        return lambda picture: picture
    return transform.apply


def _changes_nothing(transform, mode):
    """Whether a transform to sRGB is from sRGB, but for rounding."""
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    if mode == "RGB":
        cube = np.stack(np.meshgrid(levels, levels, levels), -1)
        before = Image.fromarray(cube.reshape(len(levels), -1, 3))
    else:
        before = Image.fromarray(levels[None])
    after = transform.apply(before)
    change = np.abs(np.int32(after) - np.int32(before.convert("RGB")))
    return change.max() <= ALIKE


@lru_cache(maxsize=1)
def _lab_to_srgb():
    lab, srgb = (ImageCms.createProfile(space) for space in ("LAB", "sRGB"))
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB")


def _regraded(picture, gamma):
    """A picture of another gamma than sRGB's, as PNG tells it."""
    exponent = SRGB_GAMMA / gamma
    if abs(exponent - 1) < 0.05:
        return picture
    levels = 255 * (np.arange(256) / 255) ** exponent
    return picture.point(np.round(levels).astype(int).tolist() * len(picture.mode))


def _orientation(picture):
    """How a picture is stored, 1 to 8; 1 where that cannot be read."""
    try:
        return picture.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged metadata of a picture that can be seen
        return 1


def _upright(picture, orientation):
    turn = UPRIGHT.get(orientation)
    return picture if turn is None else picture.transpose(turn)
