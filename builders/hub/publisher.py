"""Publish finished models to the Hub while others train, and wait until that frees disk space."""

from __future__ import annotations

import dataclasses
import shutil
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ...errors import Cancelled, InvalidArgument, PublishingWarning, TrainingFailed
from ..ledger import Published
from ..specification import Zoo
from ..zoo_directory import ZooDirectory
from .incremental import (
    STAGING_BYTES,
    PublishOptions,
    PushSummary,
    check_push,
    prepare_push,
    push_models,
    unpublished,
)

PUSH_SECONDS = 60.0
"""Seconds between two searches for models to publish: the Hub allows a few hundred commits an
hour."""


@dataclass
class HubPublisher:
    """The `Publisher` of generation/generate.py that publishes to a repository on the Hub.

    Attributes:
        options: the repository, and whether published models stay here.
    """

    options: PublishOptions
    staging_bytes: int = STAGING_BYTES
    _counts: dict[str, Any] = field(
        default_factory=lambda: {"published": 0, "freed": 0, "left_out": {}}
    )

    @property
    def free(self) -> bool:
        return self.options.free

    def check(self, zoo: Zoo) -> None:
        """Refuse a zoo whose models share files.

        Raises:
            InvalidArgument: its models share files.
        """
        check_push(zoo, self.options, Published("", {}))

    def prepare(self, directory: ZooDirectory) -> None:
        """Create the repository if it is missing, and record its models; see `prepare_push`."""
        prepare_push(directory, self.options)

    def make_room(self, directory: ZooDirectory) -> None:
        """Publish finished models and, with `options.free`, delete them here; see `push_models`."""
        self._add(push_models(directory, self.options))

    @contextmanager
    def while_training(self, directory: ZooDirectory) -> Iterator[dict[str, Any]]:
        """Publish finished models every minute during the context, and the rest at its end.

        Yields:
            `published`, `freed` and `left_out` of a Summary, which grow meanwhile.

        Raises:
            HubFailed, InvalidArgument, FaultyZoo, AlreadyRunning: from `push_models` at the end.
                Earlier errors become warnings. After an InvalidArgument nothing more is published
                until then; after any other error, publishing is retried in a minute.
        """
        ended, cancelled = threading.Event(), threading.Event()

        def publish() -> None:
            push_models(directory, self.options, cancelled=cancelled, on_published=self._add)

        def publish_often() -> None:
            failures = 0
            while not ended.wait(PUSH_SECONDS):
                try:
                    publish()
                except Cancelled:
                    return
                except InvalidArgument as error:  # it would fail again in a minute
                    published = directory.published()
                    directory.write_published(dataclasses.replace(published, stopped=str(error)))
                    _warn(f"nothing more is published, training continues: {error}")
                    return
                except Exception as error:  # training continues after any error
                    failures += 1
                    _warn(f"not published now, tried again in a minute ({failures}): {error}")

        thread = threading.Thread(target=publish_often, name="publish")
        thread.start()
        try:
            yield self._counts
        except BaseException:
            cancelled.set()
            raise
        finally:
            ended.set()
            try:
                thread.join()
            except KeyboardInterrupt:
                cancelled.set()
                raise
        publish()

    def wait_for_room(self, directory: ZooDirectory, room: int, stop: threading.Event) -> None:
        """Wait until `room` bytes of disk are free, or no finished model is left to delete.

        Raises:
            TrainingFailed: nothing more is published that would make room.
        """
        said = False
        while not stop.is_set() and free_bytes(directory) < room:
            published = directory.published()
            if not unpublished(directory) and "here" not in published.models.values():
                return  # nothing is left to delete
            if published.stopped is not None:
                raise TrainingFailed(
                    f"there is no room for another model in {directory.path}, and finished ones "
                    f"cannot be published and deleted ({published.stopped})",
                    hint="fix this cause, then run the same command again",
                )
            if not said:
                _warn(
                    f"a model waits until {room / 1e9:.1f} GB are free in {directory.path}, or "
                    "finished ones are published and deleted"
                )
            said = True
            stop.wait(1)

    def _add(self, done: PushSummary) -> None:
        self._counts["published"] += done.models
        self._counts["freed"] += done.freed
        for model, reason in done.left_out.items():
            self._counts["left_out"][model] = f"not published: {reason}"


def free_bytes(directory: ZooDirectory) -> int:
    """Return the free disk space at a zoo's folder in bytes."""
    return shutil.disk_usage(directory.path).free


def _warn(message: str) -> None:
    warnings.warn(PublishingWarning(message), stacklevel=2)
