"""Compare the files of an image data set with the original checksums and counts.

Each comparison returns a sentence for each difference.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from ...builders.files import file_digest
from .data import ImageFiles, ImageSource, RawImages


def compare_checksums(files: ImageFiles, folder: Path) -> tuple[bool, list[str]]:
    """Compare the MD5 sums of files; also return whether all of them have one and match it."""
    doubts = []
    for file, expected in files.listed:
        if expected is not None and (found := file_digest(folder / file, "md5")) != expected:
            doubts.append(f"{folder / file} has MD5 {found}, the original file has {expected}")
    return all(md5 is not None for _, md5 in files.listed) and not doubts, doubts


def compare_archive(
    files: ImageFiles, folder: Path, parts: Sequence[RawImages]
) -> tuple[bool, list[str]]:
    """Compare image files with the CRC-32 sums in their original archive.

    Args:
        files: files of the set, with an archive.
        folder: their folder; without the intact archive in it, nothing is compared.
        parts: the image files that were read.

    Returns:
        Whether all files equal those of the archive, and a sentence if some differ.
    """
    assert files.archive is not None
    archive, expected = folder / files.archive[0], files.archive[1]
    if not archive.is_file() or file_digest(archive, "md5") != expected:
        return False, []
    with zipfile.ZipFile(archive) as opened:
        published = {member.filename: member.CRC for member in opened.infolist()}
    read = [folder / file for file, _ in files.listed if not file.endswith("/")]
    read += [Path(path) for part in parts for path in part.images]
    differing = [
        path
        for path in read
        if published.get(path.relative_to(archive.parent).as_posix())
        != zlib.crc32(path.read_bytes())
    ]
    if not differing:
        return True, []
    return False, [f"{differing[0]} and {len(differing) - 1} more differ from {archive.name}"]


def compare_counts(source: ImageSource, parts: Sequence[RawImages]) -> list[str]:
    """Compare the number of images in each part with that of the original files."""
    train, validation, test = source.sizes
    published = {"training": train + (validation or 0), "test": test}
    if len(parts) == 1:
        published = {"training and test": sum(published.values())}
    doubts = []
    for (kind, expected), part in zip(published.items(), parts, strict=True):
        if (found := len(part.labels)) < expected:
            doubts.append(f"{expected - found:,} of {expected:,} {kind} images are missing")
        elif found > expected:
            doubts.append(f"{found:,} {kind} images in place of {expected:,}")
    return doubts
