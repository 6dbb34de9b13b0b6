"""Writers of image files of many kinds, some of them by hand."""

import struct
import zlib
from io import BytesIO

import numpy as np
import tifffile
from PIL import Image, ImageCms


def saved(picture, form, **options):
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(np.ascontiguousarray(picture))
    file = BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def png(samples, bits, colour_type, *chunks):
    """A PNG written by hand: samples `[H, W, channels]`, and (name, data) chunks."""

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1)
    if bits == 16:
        lines = [row.astype(">u2").tobytes() for row in rows]
    else:
        ones = np.unpackbits(rows.astype(np.uint8)[..., None], axis=-1)[..., -bits:]
        lines = [np.packbits(row.ravel()).tobytes() for row in ones]
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + line for line in lines))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(samples, bits, photometric, order="<", *tags):
    """An uncompressed TIFF of one channel, 8 or 16 bits a sample, written by hand."""
    height, width = samples.shape
    data = samples.astype(f"{order}u{2 if bits > 8 else 1}").tobytes()
    if bits == 12:
        high, low = samples.reshape(-1, 2).T
        packed = np.stack([high >> 4, ((high & 15) << 4) | (low >> 8), low & 255], 1)
        data = packed.astype(np.uint8).tobytes()
    entries = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: height,
        279: len(data),
        **dict(tags),
    }
    directory = struct.pack(f"{order}H", len(entries))
    for tag, value in sorted(entries.items()):
        directory += struct.pack(f"{order}HHIHxx", tag, 3, 1, value)
    start = b"II*\0" if order == "<" else b"MM\0*"
    data += b"\0" * (len(data) % 2)
    return (
        start + struct.pack(f"{order}I", 8 + len(data)) + data + directory + b"\0" * 4
    )


def planes(samples):
    """An uncompressed TIFF `[H, W, channels]` that stores each channel apart."""
    file = BytesIO()
    tifffile.imwrite(
        file, np.moveaxis(samples, -1, 0), photometric="rgb", planarconfig="separate"
    )
    return file.getvalue()


def palette(colours, indices, form, **options):
    picture = Image.fromarray(indices.astype(np.uint8), "P")
    picture.putpalette(np.asarray(colours, np.uint8).tobytes())
    return saved(picture, form, **options)


def colours_of(pixels):
    """The colours of a picture, and the index of each pixel's."""
    colours, indices = np.unique(
        pixels.reshape(-1, pixels.shape[-1]), axis=0, return_inverse=True
    )
    return colours, indices.reshape(pixels.shape[:2])


def srgb():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def profile(primaries, gamma, white=(0.9642, 1.0, 0.8249)):
    """An ICC profile for RGB (primaries in D50 XYZ as rows), or for grey if None."""
    tags = {b"wtpt": b"XYZ \0\0\0\0" + fixed(white)}
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    if primaries is None:
        tags[b"kTRC"] = curve
    else:
        for name, primary in zip("rgb", primaries, strict=True):
            tags[f"{name}XYZ".encode()] = b"XYZ \0\0\0\0" + fixed(primary)
            tags[f"{name}TRC".encode()] = curve
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        offset = 128 + 4 + 12 * len(tags) + len(body)
        table += name + struct.pack(">II", offset, len(data))
        body += data + b"\0" * (-len(data) % 4)
    space = b"RGB " if primaries is not None else b"GRAY"
    head = struct.pack(
        ">I4sI4s4s4s12x4s", 0, b"", 0x02400000, b"mntr", space, b"XYZ ", b"acsp"
    )
    head = head.ljust(68, b"\0") + fixed((0.9642, 1.0, 0.8249))
    head = head.ljust(128, b"\0")
    size = len(head + table + body)
    return struct.pack(">I", size) + (head + table + body)[4:]


def fixed(numbers):
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)
