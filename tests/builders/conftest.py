"""A Hub on the loopback interface, and a client that may write to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hub_server import READER, WRITER, Client, Hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    tokens = {WRITER: "write", READER: "read"}
    with Hub(tmp_path_factory.mktemp("hub"), tokens=tokens, page=7) as hub:
        yield hub


@pytest.fixture(scope="module")
def writer(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client with this package and a token that may write."""
    with Client(hub.endpoint, tmp_path_factory.mktemp("writer"), token=WRITER) as client:
        client.run(
            "import time; sleep = time.sleep\n"
            "time.sleep = lambda seconds: sleep(min(seconds, 0.01))  # between attempts"
        )
        yield client
