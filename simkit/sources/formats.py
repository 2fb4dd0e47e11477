"""Image formats: which are read, and what the first bytes of any file look like."""

from __future__ import annotations

import re

__all__ = ["EXTENSIONS", "FORMATS", "OPENABLE", "looks_like"]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are read, by Pillow's names. Pillow tries only these, so no other decoder ever sees the bytes."""

EXTENSIONS = frozenset({".apng", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"})
"""Usual extensions of these formats, lower case: what a folder is searched for first."""

MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "a JPEG file"), (b"\x89PNG\r\n\x1a\n", "a PNG file"), (b"GIF8", "a GIF file"), (b"BM", "a BMP file"),
    (b"II*\0", "a TIFF file"), (b"MM\0*", "a TIFF file"), (b"II+\0", "a BigTIFF file"), (b"MM\0+", "a BigTIFF file"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 file"), (b"\xff\x4f\xff\x51", "a JPEG 2000 file"), (b"%PDF", "a PDF file"),
    (b"PK\x03\x04", "a zip archive"), (b"\x1f\x8b", "a gzip file"), (b"\x93NUMPY", "a NumPy array"), (b"\x89HDF", "an HDF5 file"),
    (b"version https://git-lfs", "a Git LFS pointer (the file itself was not fetched)"), (b"8BPS", "a Photoshop file"),
)

OPENABLE = frozenset({"a JPEG file", "a PNG file", "a GIF file", "a BMP file", "a TIFF file", "a WebP file", "a BigTIFF file", "a PPM file"})
"""What :func:`looks_like` says of files of the formats that are read."""


def looks_like(head: bytes, size: int) -> str:
    """What the first bytes of a file look like, in words: "a PNG file", "an HTML page", "text", "unknown bytes (0x00112233...)"."""
    if size == 0:
        return "an empty file (0 bytes)"
    if not head.strip(b"\0"):
        return "zeros only (not copied completely?)" if len(head) <= 132 or head[128:132] != b"DICM" else "a DICOM file"
    if head[128:132] == b"DICM":
        return "a DICOM file"
    if head[344:348] in (b"n+1\0", b"ni1\0"):
        return "a NIfTI volume"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "a WebP file"
    if head[4:8] == b"ftyp":
        return "an AVIF, HEIF or video file"
    for magic, words in MAGIC:
        if head.startswith(magic):
            return words
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page (an error page saved under the image's name?)"
    if start.startswith((b"<?xml", b"<svg")):
        return "an XML or SVG file"
    if re.match(rb"p[1-7]\s", head.lower()):
        return "a PPM file"
    if all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return f"text ({head[:24].decode('utf-8', 'backslashreplace')!r}...)"
    return f"unknown bytes (0x{head[:8].hex()}...)"
