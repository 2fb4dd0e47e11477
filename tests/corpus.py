"""The corpus of bad and unusual input, made at test time: each file with what must become of it.

``read``: the exact pixels that decoding must give, and ``remarks``: what must be said of them. ``refuse``: the code and words of the error
that must name the file. ``skip``: the reason with which a folder must list it. ``ignore``: nothing must come of it.
"""

from __future__ import annotations

import io
import itertools
import os
import socket
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

from simkit.sources.decode import Decoding


@dataclass(frozen=True)
class Case:
    """One file of the corpus: its name in the class folder, and what must become of it."""

    file: str
    read: np.ndarray | None = None
    refuse: tuple[str, str] | None = None
    skip: str = ""
    ignore: bool = False
    rules: Decoding = Decoding()
    remarks: tuple[str, ...] | None = None
    """What must be said of it; None: not looked at."""


def colour(height: int = 5, width: int = 7) -> np.ndarray:
    """An RGB image in which all pixels differ."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 30 + 3, y * 40 + 5, (x + y) * 20 + 7], axis=2).astype(np.uint8)


def grey(height: int = 5, width: int = 7) -> np.ndarray:
    return np.arange(height * width, dtype=np.uint8).reshape(height, width) * 7


def smooth(size: int = 16) -> np.ndarray:
    """An RGB image that JPEG keeps within a few levels."""
    ramp = np.linspace(40, 200, size)
    return np.stack([ramp[None, :].repeat(size, 0), ramp[:, None].repeat(size, 1), np.full((size, size), 90.0)], axis=2).astype(np.uint8)


def png16(path: Path, values: np.ndarray, colour_type: int = 0) -> None:
    """A 16-bit PNG, written by hand: 0 is grey, 2 is RGB."""
    height, width = values.shape[:2]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def decoded_jpeg(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def oriented(orientation: int) -> tuple[bytes, np.ndarray]:
    """A PNG that says how it is to be turned, and the turned pixels (EXIF 2.32: what row 0 and column 0 of the stored image are)."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = colour()
    meant = {
        1: stored, 2: stored[:, ::-1], 3: np.rot90(stored, 2), 4: stored[::-1], 5: stored.transpose(1, 0, 2), 6: np.rot90(stored, -1),
        7: np.rot90(stored, 2).transpose(1, 0, 2), 8: np.rot90(stored, 1),
    }
    return _encoded(Image.fromarray(stored), "PNG", exif=exif), meant[orientation]


PLAIN = "CMYK without a colour profile: converted by the plain formula"


def ink_profile() -> bytes:
    """A colour profile of a printer whose coloured inks are all half black (L* = 50), written by hand: ICC.1:2010, an 8-bit table A2B0."""
    lightness = [100 if not any(inks) else 0 if inks[3] else 50 for inks in itertools.product((0, 1), repeat=4)]
    table = b"".join(bytes([level * 255 // 100 if level != 50 else 128, 128, 128]) for level in lightness)
    line = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + line * 4 + table + line * 3
    text = b"test\0"
    described = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags, body, at = [], b"", 128 + 4 + 12 * 3
    for name, data in ((b"desc", described), (b"wtpt", white), (b"A2B0", lut)):
        data += bytes(-len(data) % 4)
        tags.append(name + struct.pack(">II", at + len(body), len(data)))
        body += data
    header = struct.pack(">I4sI4s4s4s", at + len(body), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ") + bytes(12) + b"acsp" + bytes(28)
    header += struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", 3) + b"".join(tags) + body


def _plain(folder: Path) -> list[Case]:
    Image.fromarray(colour()).save(folder / "plain.png")
    Image.fromarray(grey()).save(folder / "grey.png")
    Image.fromarray(grey() > 100).save(folder / "onebit.png")
    Image.fromarray(colour()).save(folder / "UPPER.PNG")
    Image.fromarray(colour()).save(folder / "one.bmp")
    Image.fromarray(colour()).save(folder / "lossless.webp", lossless=True)
    Image.fromarray(grey()).save(folder / "grey.pgm")
    Image.fromarray(colour()).save(folder / "colour.tif")
    Image.fromarray(colour(1, 1)).save(folder / "pixel.png")
    (folder / "wrong.jpg").write_bytes(_encoded(Image.fromarray(colour()), "PNG"))
    (folder / "noextension").write_bytes(_encoded(Image.fromarray(colour()), "PNG"))
    name = os.fsdecode(b"caf\xe9.png")
    Image.fromarray(colour()).save(folder / name)
    one = np.where(grey() > 100, 255, 0).astype(np.uint8)[..., None]
    return [
        *(Case(file, read=colour()) for file in ("plain.png", "UPPER.PNG", "one.bmp", "lossless.webp", "colour.tif", "wrong.jpg", "noextension", name)),
        Case("grey.png", read=grey()[..., None]), Case("grey.pgm", read=grey()[..., None]), Case("onebit.png", read=one), Case("pixel.png", read=colour(1, 1)),
    ]


def _transparent(folder: Path) -> list[Case]:
    alpha = np.full((5, 7), 255, np.uint8)
    alpha[:, :3], alpha[0] = 0, 128
    a = alpha[..., None].astype(float)

    def over(image: np.ndarray, background: object) -> np.ndarray:
        return np.floor((a * image + (255 - a) * np.array(background)) / 255 + 0.5).astype(np.uint8)

    Image.fromarray(np.dstack([colour(), alpha])).save(folder / "rgba.png")
    Image.fromarray(np.dstack([grey(), alpha])).save(folder / "greyalpha.png")
    palette = Image.fromarray((grey() // 64).astype(np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    palette.save(folder / "palette.png")
    palette.save(folder / "palettealpha.png", transparency=b"\xff\x00\x80")
    palette.save(folder / "palette.gif", transparency=1)
    Image.fromarray(colour()).save(folder / "key.png", transparency=(3, 5, 7))
    table = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]], np.uint8)
    index = grey() // 64
    keyed = colour().copy()
    keyed[0, 0] = 0
    return [
        Case("rgba.png", read=over(colour(), 0), remarks=("transparency composited on the background",)),
        Case("rgba.png", read=over(colour(), (255, 128, 0)), rules=Decoding(background=(255, 128, 0))),
        Case("greyalpha.png", read=over(grey()[..., None], 0)), Case("greyalpha.png", read=over(grey()[..., None], 200), rules=Decoding(background=(200,))),
        Case("greyalpha.png", read=over(grey()[..., None], (1, 2, 3)), rules=Decoding(background=(1, 2, 3))),
        Case("palette.png", read=table[index], remarks=()), Case("key.png", read=keyed),
        Case("palettealpha.png", read=np.array([[255, 0, 0], [0, 0, 0], [0, 0, 128], [9, 9, 9]], np.uint8)[index]),
        Case("palette.gif", read=np.array([[255, 0, 0], [0, 0, 0], [0, 0, 255], [9, 9, 9]], np.uint8)[index]),
    ]


def _turned(folder: Path) -> list[Case]:
    cases = []
    for orientation in range(1, 9):
        data, pixels = oriented(orientation)
        (folder / f"turned{orientation}.png").write_bytes(data)
        cases.append(Case(f"turned{orientation}.png", read=pixels, remarks=("EXIF orientation applied",) if orientation > 1 else ()))
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = 6
    Image.fromarray(colour()).save(folder / "turned.tif", tiffinfo=tags)
    (folder / "badexif.jpg").write_bytes(_encoded(Image.fromarray(smooth()), "JPEG", exif=b"Exif\0\0no exif at all"))
    jpeg = _encoded(Image.fromarray(smooth()), "JPEG", quality=95)
    (folder / "photo.jpg").write_bytes(jpeg)
    inverted = Image.fromarray(np.dstack([255 - smooth(), np.zeros((16, 16), np.uint8)]), "CMYK")
    inverted.save(folder / "cmyk.tif")
    inverted.save(folder / "badprofile.tif", icc_profile=b"no profile at all")
    Image.fromarray(np.array([[[0, 0, 0, 0], [0, 0, 0, 255], [255, 0, 0, 0]]], np.uint8), "CMYK").save(folder / "profile.tif", icc_profile=ink_profile())
    return [
        *cases, Case("turned.tif", read=np.rot90(colour(), -1), remarks=("EXIF orientation applied",)), Case("photo.jpg", read=decoded_jpeg(jpeg)),
        Case("cmyk.tif", read=smooth(), remarks=(PLAIN,)),
        Case("profile.tif", read=np.array([[[255, 255, 255], [0, 0, 0], [119, 119, 119]]], np.uint8), remarks=("CMYK converted by its colour profile",)),
        Case("badprofile.tif", read=smooth(), remarks=("CMYK with a broken colour profile: converted by the plain formula",)),
        Case("badexif.jpg", read=decoded_jpeg(_encoded(Image.fromarray(smooth()), "JPEG"))),
    ]


def _deep(folder: Path) -> list[Case]:
    deep = np.array([[0, 257, 128, 129], [65535, 65278, 32896, 4096]], np.uint16)
    scaled = np.array([[0, 1, 0, 1], [255, 254, 128, 16]], np.uint8)[..., None]
    twelve = np.array([[0, 4095, 2048], [16, 8, 1000]], np.uint16)
    png16(folder / "deep.png", deep)
    png16(folder / "twelve.png", twelve)
    png16(folder / "deepcolour.png", np.stack([deep, deep[::-1], deep], axis=2), 2)
    Image.fromarray(deep).save(folder / "deep.tif")
    (folder / "deep.pgm").write_bytes(b"P5\n# scanner\n4 2\n65535\n" + deep.astype(">u2").tobytes())
    Image.fromarray(np.array([[-5, 70000]], np.int32)).save(folder / "int32.tif")
    Image.fromarray(np.array([[0.5, -2.0]], np.float32)).save(folder / "float.tif")
    Image.fromarray(np.array([[0.5, np.nan]], np.float32)).save(folder / "nan.tif")
    full, low = Decoding(intensity="full-range"), Decoding(intensity="12-bit")
    return [
        Case("deep.png", refuse=("SK207", r"has 16 bits per sample \(values from 0 to 65535\)")),
        Case("deep.tif", refuse=("SK207", "has 16 bits per sample")), Case("deep.pgm", refuse=("SK207", "has 16 bits per sample")),
        Case("deepcolour.png", refuse=("SK207", "has 16 bits per sample: how they become 8 bit is not declared")),
        *(Case(file, read=scaled, rules=full) for file in ("deep.png", "deep.tif", "deep.pgm")),
        Case("deepcolour.png", read=(np.stack([deep, deep[::-1], deep], axis=2) >> 8).astype(np.uint8), rules=full),
        Case("twelve.png", read=np.array([[0, 255, 128], [1, 0, 62]], np.uint8)[..., None], rules=low),
        Case("twelve.png", refuse=("SK207", r"values from 0 to 4095")),
        Case("deep.png", read=np.array([[0, 16, 8, 8], [255, 255, 255, 255]], np.uint8)[..., None], rules=Decoding(intensity="window", window=(0.0, 4096.0))),
        Case("deep.png", refuse=("SK207", "holds the value 65535, above the 4095"), rules=low),
        Case("deepcolour.png", refuse=("SK207", "16 bits per sample with colour, which intensity = '12-bit' does not cover"), rules=low),
        Case("int32.tif", refuse=("SK207", r"holds 32-bit signed values \(values from -5 to 70000\): how they become 8 bit is not declared")),
        Case("float.tif", refuse=("SK207", r"holds 32-bit float values \(values from -2.0 to 0.5\): how they become 8 bit is not declared")),
        Case("int32.tif", refuse=("SK207", "holds 32-bit signed values, which intensity = 'full-range' does not cover"), rules=full),
        Case("float.tif", refuse=("SK207", "holds 32-bit float values, which intensity = '12-bit' does not cover"), rules=low),
        Case("int32.tif", read=np.array([[0, 255]], np.uint8)[..., None], rules=Decoding(intensity="image-percentile", percentiles=(0.0, 100.0))),
        Case("float.tif", read=np.array([[204, 0]], np.uint8)[..., None], rules=Decoding(intensity="window", window=(-1.5, 1.0)),
             remarks=("32-bit float values by intensity = 'window'", "more than 1% of its pixels lie outside the window: black or white")),
        Case("nan.tif", refuse=("SK207", "holds 1 values that are NaN or infinite")),
    ]


def _several(folder: Path) -> list[Case]:
    one, two = Image.fromarray(grey()), Image.fromarray(255 - grey())
    first, second = Image.fromarray(colour()), Image.fromarray(255 - colour())
    one.save(folder / "moving.gif", save_all=True, append_images=[two])
    one.save(folder / "pages.tif", save_all=True, append_images=[two, one])
    first.save(folder / "moving.png", save_all=True, append_images=[second])
    first.save(folder / "moving.webp", save_all=True, append_images=[second, first], lossless=True)
    refused, middle = Decoding(frames="refuse"), Decoding(frames="middle")
    palette = np.dstack([grey()] * 3)  # the frames of a GIF have palettes, so RGB
    frames, pages = ("first of several frames",), ("first of several pages",)
    return [
        *(Case(file, refuse=("SK207", words), rules=refused) for file, words in (
            ("moving.gif", "holds 2 frames"), ("pages.tif", "holds 3 pages"), ("moving.png", "holds 2 frames"), ("moving.webp", "holds 3 frames"))),
        Case("pages.tif", read=grey()[..., None], remarks=pages), Case("moving.png", read=colour(), remarks=frames),
        Case("moving.gif", read=palette, remarks=frames), Case("moving.webp", read=colour(), remarks=frames),
        Case("pages.tif", read=255 - grey()[..., None], rules=middle, remarks=("middle of several pages",)),
        Case("moving.webp", read=255 - colour(), rules=middle, remarks=("middle of several frames",)), Case("moving.png", read=colour(), rules=middle),
    ]


def _broken(folder: Path) -> list[Case]:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    jpeg, png = _encoded(Image.fromarray(noise), "JPEG"), _encoded(Image.fromarray(noise), "PNG")
    (folder / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "cut.png").write_bytes(png[: len(png) // 2])
    (folder / "head.png").write_bytes(png[:20])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "page.jpg").write_bytes(b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>")
    (folder / "lfs.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    (folder / "zeros.png").write_bytes(bytes(5000))
    (folder / "text.png").write_text("not an image")
    (folder / "scan.jpg").write_bytes(bytes(128) + b"DICM" + bytes(200))
    (folder / "random.tif").write_bytes(b"\x01\x02\x03\x04" + rng.bytes(400))
    bomb = _encoded(Image.new("1", (30000, 30000)), "PNG")
    (folder / "bomb.png").write_bytes(bomb)
    Image.new("1", (12000, 9000)).save(folder / "slide.png")
    return [
        Case("cut.jpg", refuse=("SK206", r"cannot be decoded: .*truncated.*a JPEG file")), Case("cut.png", refuse=("SK206", "cannot be decoded.*a PNG file")),
        Case("head.png", refuse=("SK206", "it looks like a PNG file")), Case("empty.jpg", refuse=("SK206", r"an empty file \(0 bytes\)")),
        Case("page.jpg", refuse=("SK206", "an HTML page")), Case("lfs.png", refuse=("SK206", "a Git LFS pointer")),
        Case("zeros.png", refuse=("SK206", "zeros only")), Case("text.png", refuse=("SK206", r"text \('not an image'")),
        Case("scan.jpg", refuse=("SK206", "a DICOM file")), Case("random.tif", refuse=("SK206", r"unknown bytes \(0x01020304")),
        Case("bomb.png", refuse=("SK206", r"has 900,000,000 pixels, the limit is 89,478,485")),
        Case("slide.png", refuse=("SK206", r"has 108,000,000 pixels, the limit is 89,478,485")),
    ]


def _entries(folder: Path) -> list[Case]:
    """Things in a folder that are not image files."""
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket may be 108 bytes long at most
        server.bind("socket.png")
        os.chdir(here)
    (folder / "nowhere.png").symlink_to("gone.png")
    (folder / "self.png").symlink_to("self.png")
    (folder / "again.png").symlink_to("plain.png")
    (folder / "loop").symlink_to(folder)
    (folder / "folder.png").mkdir()
    (folder / ".ipynb_checkpoints").mkdir()
    for junk in (".ipynb_checkpoints/plain.png", "._plain.png", "Thumbs.db", ".DS_Store"):
        (folder / junk).write_bytes(b"junk")
    (folder / "scan.dcm").write_bytes(bytes(128) + b"DICM")
    (folder / "volume.nii.gz").write_bytes(b"\x1f\x8b")
    (folder / "notes.txt").write_text("notes")
    return [
        Case("pipe.png", skip=r"not a regular file \(FIFO\)"), Case("socket.png", skip=r"not a regular file \(socket\)"),
        Case("nowhere.png", skip=r"a dangling symbolic link \(to gone.png\)"), Case("self.png", skip="a symbolic link that leads to itself"),
        Case("again.png", skip="the same file as odd/plain.png, counted once"), Case("scan.dcm", skip="DICOM is not a format"),
        Case("volume.nii.gz", skip="NIfTI is not a format"),
        *(Case(file, ignore=True) for file in ("loop", "folder.png", ".ipynb_checkpoints", "._plain.png", "Thumbs.db", ".DS_Store", "notes.txt")),
    ]


def make(folder: Path) -> list[Case]:
    """Writes the corpus into ``folder`` (a class folder called ``odd``) and returns its cases."""
    folder.mkdir(parents=True)
    makers = (_plain, _transparent, _turned, _deep, _several, _broken, _entries)
    return [case for maker in makers for case in maker(folder)]
