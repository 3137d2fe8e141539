"""Compare the files of an image data set with their published checksums and counts."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from ...builders.machine import file_digest
from ...errors import UnverifiedImagesError
from .data import ImageFiles, ImageSource, RawImages


def _listed(files: ImageFiles) -> tuple[tuple[str, str | None], ...]:
    return files.train + (files.test or ())


def _compare_checksums(files: ImageFiles, folder: Path) -> tuple[bool, list[str]]:
    """Whether every file has the published MD5, and a sentence for each that has another."""
    doubts = []
    for file, expected in _listed(files):
        if expected is not None and (found := file_digest(folder / file, "md5")) != expected:
            doubts.append(f"{folder / file} has MD5 {found}, the published file has {expected}")
    return all(md5 is not None for _, md5 in _listed(files)) and not doubts, doubts


def _compare_archive(
    files: ImageFiles, folder: Path, parts: Sequence[RawImages]
) -> tuple[bool, list[str]]:
    """Likewise for image files, by the CRC-32 sums in the published archive, if that is there."""
    archive, expected = folder / files.archive[0], files.archive[1]
    if not archive.is_file() or file_digest(archive, "md5") != expected:
        return False, []
    with zipfile.ZipFile(archive) as opened:
        published = {member.filename: member.CRC for member in opened.infolist()}
    read = [folder / file for file, _ in _listed(files) if not file.endswith("/")]
    read += [path for part in parts for path in part.images]
    differing = [
        path
        for path in read
        if published.get(path.relative_to(archive.parent).as_posix())
        != zlib.crc32(path.read_bytes())
    ]
    if not differing:
        return True, []
    return False, [f"{differing[0]} and {len(differing) - 1} more differ from {archive.name}"]


def _compare_numbers(source: ImageSource, parts: Sequence[RawImages]) -> list[str]:
    """A sentence for each part that has not as many images as published."""
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


def _refuse(files: ImageFiles, doubts: Sequence[str]) -> None:
    if doubts:
        raise UnverifiedImagesError(
            f"{files.title}: {'; '.join(doubts)}; delete what differs and fetch the published "
            "files with `--download`, or use these as they are with `--allow-unverified`"
        )
