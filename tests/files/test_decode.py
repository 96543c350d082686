import io
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from ssd_jax.errors import InputError
from ssd_jax.files.decode import LARGEST_FILE, decode, read

RANDOM = np.random.default_rng(0)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def random_image(mode: str, height: int = 6, width: int = 9) -> tuple[Image.Image, np.ndarray]:
    array = RANDOM.integers(0, 256, (height, width, len(mode)), np.uint8)
    return Image.fromarray(array[..., 0] if mode == "L" else array, mode), array


def decoded(data: bytes, *arguments) -> np.ndarray:
    return decode(data, *arguments)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_opaque_images_are_those_of_opencv(kind, mode):
    image, array = random_image(mode)
    data = encoded(image, kind)
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    np.testing.assert_array_equal(decoded(data, 3), cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
    assert decoded(data).shape[-1] == (3 if kind == "WEBP" else len(mode))  # WebP knows no grey
    if kind == "PNG":
        np.testing.assert_array_equal(decoded(data), array)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_kept_or_composited(kind):
    image, array = random_image("RGBA")
    data = encoded(image, kind, lossless=True, exact=True)
    np.testing.assert_array_equal(decoded(data), array)
    for background in ((255, 255, 255), (0, 50, 100)):
        alpha = array[..., 3:] / 255
        expected = np.rint(array[..., :3] * alpha + np.array(background) * (1 - alpha))
        np.testing.assert_array_equal(decoded(data, 3, background), expected)
    assert decoded(data, 1).shape == (6, 9, 1)


def test_grey_with_alpha():
    image, array = random_image("LA")
    np.testing.assert_array_equal(decoded(encoded(image)), array[..., [0, 0, 0, 1]])


@pytest.mark.parametrize("transparency", [None, 3, bytes([0, 128, 255])])
def test_palettes_are_looked_up(transparency):
    indices = RANDOM.integers(0, 5, (6, 9), np.uint8)
    palette = RANDOM.integers(0, 256, (5, 3), np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    data = encoded(image) if transparency is None else encoded(image, transparency=transparency)
    alphas = {None: [255] * 5, 3: [255, 255, 255, 0, 255]}.get(transparency, [0, 128, 255, 255, 255])
    found = decoded(data)
    np.testing.assert_array_equal(found[..., :3], palette[indices])
    assert found.shape[-1] == (3 if transparency is None else 4)
    np.testing.assert_array_equal(decoded(data, 4)[..., 3], np.array(alphas)[indices])


def test_one_colour_can_be_transparent():
    for mode, key in (("L", 7), ("RGB", (7, 8, 9))):
        image, array = random_image(mode)
        array[2, 3] = key
        image = Image.fromarray(array[..., 0] if mode == "L" else array)
        found = decoded(encoded(image, transparency=key))
        np.testing.assert_array_equal(found[..., :3], np.broadcast_to(array, (6, 9, 3)))
        np.testing.assert_array_equal(found[..., 3] == 0, (array == np.array(key)).all(axis=-1))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_become_eight(channels):
    deep = RANDOM.integers(0, 2**16, (6, 9, channels), np.uint16)
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]  # OpenCV's
    data = cv2.imencode(".png", deep[..., order])[1].tobytes()
    np.testing.assert_array_equal(decoded(data), deep >> 8)


def test_one_of_sixteen_bits_of_grey_can_be_transparent():
    deep = np.arange(54, dtype=np.uint16).reshape(6, 9) * 1000
    found = decoded(encoded(Image.fromarray(deep), transparency=5000))
    np.testing.assert_array_equal(found[..., :3], np.repeat(deep[..., None] >> 8, 3, axis=-1))
    np.testing.assert_array_equal(found[..., 3] == 0, deep == 5000)


def test_black_and_white():
    bits = RANDOM.integers(0, 2, (6, 9), np.uint8) * 255
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(bits).convert("1")))[..., 0], bits)


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "L")])
def test_images_are_turned_upright(kind, mode):
    image, _ = random_image(mode)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    turned = np.rot90(decoded(encoded(image, kind)), -1)
    np.testing.assert_array_equal(decoded(encoded(image, kind, exif=exif)), turned)


def test_what_cannot_be_decoded():
    """Nor half of it as if it were whole."""
    reasons = {b"": "it is empty", b"text": "it is of an unknown format", b"%!PS-Adobe-3.0 EPSF": "unknown format"}
    for kind, modes in {"PNG": ("L", "RGB", "RGBA", "LA"), "JPEG": ("L", "RGB"), "WEBP": ("RGB", "RGBA")}.items():
        for mode in modes:
            whole = encoded(random_image(mode, 64, 64)[0], kind)
            reasons |= {whole[:end]: "corrupt or truncated" for end in (12, 40, len(whole) // 2, -40)}
    whole = encoded(random_image("RGB", 64, 64)[0])
    reasons[whole[:300] + bytes([whole[300] ^ 1]) + whole[301:]] = "corrupt or truncated"  # a flipped bit
    for data, reason in reasons.items():
        with pytest.raises(InputError, match=reason):
            decode(data)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read(tmp_path)
    with open(tmp_path / "x.png", "wb") as file:
        file.truncate(LARGEST_FILE + 1)  # takes no disk
    with pytest.raises(InputError, match="larger than 1024 MiB"):
        read(tmp_path / "x.png")


def png(
    samples: np.ndarray, bits: int, colour: int, *chunks: tuple[bytes, bytes], size: tuple[int, int] | None = None
) -> bytes:
    """A PNG file of samples, int [h, w, ..], by the specification; `size`, (h, w), if it is to claim another."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = samples.shape[:2] if size is None else size
    lines = samples.reshape(len(samples), -1, 1) >> np.arange(bits - 1, -1, -1) & 1
    data = b"".join(b"\0" + np.packbits(line.astype(np.uint8)).tobytes() for line in lines)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # bits, by type of colour
KEYED = {0: (False, True), 2: (False, True), 3: (False, True), 4: (False,), 6: (False,)}


@pytest.mark.parametrize(
    ("colour", "bits", "keyed"),
    [(colour, bits, keyed) for colour in DEPTHS for bits in DEPTHS[colour] for keyed in KEYED[colour]],
)
def test_every_kind_of_png(colour, bits, keyed):
    """Grey 0, RGB 2, palette 3, grey and alpha 4, RGB and alpha 6; with one transparent colour, or opacities."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    samples = RANDOM.integers(0, 2**bits, (6, 9, channels))
    eight = samples >> 8 if bits == 16 else samples * 255 // (2**bits - 1)
    key, chunks = samples[2, 3], []
    opaque = np.full((6, 9, 1), 255)
    if colour == 3:
        palette, alphas = RANDOM.integers(0, 256, (2**bits, 3), np.uint8), np.r_[0, 128, np.full(2**bits, 255)]
        chunks = [(b"PLTE", palette.tobytes()), (b"tRNS", bytes([0, 128]))][: 1 + keyed]
        expected = np.concatenate([palette[samples[..., 0]], alphas[samples] if keyed else opaque], axis=-1)
    elif colour in (0, 2):
        chunks = [(b"tRNS", struct.pack(f">{channels}H", *key.tolist()))][:keyed]
        if bits == 16:
            samples[0, 0] = key ^ 1  # another colour, the same in 8 bits
            eight[0, 0] = key >> 8
        alpha = 255 * (samples != key).any(axis=-1, keepdims=True) if keyed else opaque
        expected = np.concatenate([np.broadcast_to(eight, (6, 9, 3)), alpha], axis=-1)
    else:
        expected = eight if colour == 6 else eight[..., [0, 0, 0, 1]]
    data = png(samples, bits, colour, *chunks)
    np.testing.assert_array_equal(decode(data, 4), expected)
    assert decode(data).shape[-1] == (4 if keyed or colour in (4, 6) else 1 if colour == 0 else 3)


@pytest.mark.parametrize("adobe", [True, False])
def test_printers_colours(adobe):
    """CMYK, stored inverted by everybody."""
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0]], [[0, 255, 0, 0], [0, 0, 255, 127]]], np.uint8)
    seen = [[[255, 255, 255], [0, 255, 255]], [[255, 0, 255], [128, 128, 0]]]
    data = encoded(Image.fromarray(inks.repeat(16, 0).repeat(16, 1), "CMYK"), "JPEG", quality=95)
    found = decode(data if adobe else data.replace(b"Adobe", b"Other"))
    np.testing.assert_allclose(found[8::16, 8::16], seen, atol=3)


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("PNG", {"default_image": True}), ("WEBP", {"lossless": True, "exact": True})]
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_animations_are_their_first_frame(kind, options, mode):
    (first, array), *others = [random_image(mode) for _ in range(3)]
    data = encoded(first, kind, save_all=True, append_images=[each for each, _ in others], duration=100, **options)
    np.testing.assert_array_equal(decode(data, len(mode)), array)


@pytest.mark.parametrize("turn", range(1, 9))
def test_all_turns(turn):
    """Those of Pillow, with a transparent colour of 16 bits and without."""
    exif, samples = Image.Exif(), RANDOM.integers(0, 2**16, (6, 9, 3))
    exif[0x0112] = turn
    expected = Image.fromarray((samples >> 8).astype(np.uint8))
    expected.getexif()[0x0112] = turn
    tags = (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    for chunks in ([tags], [(b"tRNS", struct.pack(">3H", *samples[2, 3].tolist())), tags]):
        found = decode(png(samples, 16, 2, *chunks))
        np.testing.assert_array_equal(found[..., :3], np.asarray(ImageOps.exif_transpose(expected)))


def test_bombs_are_refused_before_memory_is_taken():
    line = np.zeros((1, 1), int)
    for size, reason in {
        (30_000, 30_000): "too large to decode",
        (10_000, 10_000): r"claims 10000x10000 pixels in \d+ bytes",
        (1, 2**20 + 1): "too large to decode: 1048577x1",
    }.items():
        tracemalloc.start()
        with pytest.raises(InputError, match=reason):
            decode(png(line, 8, 0, size=size))
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()
    blank = np.zeros((4000, 5000), np.uint8)
    assert decode(encoded(Image.fromarray(blank))).shape == (4000, 5000, 1)  # large, and honest
