"""The Hub of the tests, as its unmodified client sees it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from tests.hub_server import READER, WRITER, Client, ClientError, Hub

FILES = {"README.md": b"---\nlicense: mit\n---\n# Fish\n", "data/pond.parquet": b"PAR1" * 1000}

UPLOAD = """
from huggingface_hub import CommitOperationAdd, HfApi
api = HfApi(token=token)
api.create_repo("me/fish", repo_type="dataset", exist_ok=True)
operations = [CommitOperationAdd(path, content) for path, content in files.items()]
result = api.create_commit("me/fish", operations, commit_message=message, repo_type="dataset",
                           parent_commit=parent).oid
"""

READ = """
from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.hf_api import RepoFile
entries = HfApi().list_repo_tree("me/fish", repo_type="dataset", recursive=True, revision=revision)
files = HfFileSystem()
result = {entry.path: files.read_bytes(f"datasets/me/fish@{revision}/{entry.path}")
          for entry in entries if isinstance(entry, RepoFile)}
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    with Hub(folder, tokens={WRITER: "write", READER: "read"}, page=1) as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Client(hub.endpoint, tmp_path_factory.mktemp("client"), token=READER) as client:
        yield client


def upload(client: Client, **changed: object) -> str:
    values = {"token": WRITER, "files": FILES, "message": "Fish", "parent": None, **changed}
    return str(client.run(UPLOAD, **values))


def test_what_is_uploaded_is_read_back(hub: Hub, client: Client) -> None:
    commit = upload(client)
    assert hub.repos["me/fish"].refs["main"] == commit
    assert client.run(READ, revision="main").items() >= FILES.items()
    assert {path: hub.read("me/fish", path) for path in FILES} == FILES
    # An LFS file is an object of its own, any other one lies in git.
    sha256 = hashlib.sha256(FILES["data/pond.parquet"]).hexdigest()
    assert hub.object("me/fish", sha256).read_bytes() == FILES["data/pond.parquet"]
    readme = FILES["README.md"]
    blob = hashlib.sha1(b"blob %d\0" % len(readme) + readme).hexdigest()
    assert hub.content("me/fish")["README.md"] == blob
    # An earlier commit stays as it was.
    upload(client, files={"README.md": b"# Other fish\n"}, message="More", parent=commit)
    assert client.run(READ, revision="main")["README.md"] == b"# Other fish\n"
    assert client.run(READ, revision=commit)["README.md"] == readme


def test_an_object_is_sent_once(hub: Hub, client: Client) -> None:
    upload(client)
    start = len(hub.requests)
    upload(client, files={"data/lake.parquet": FILES["data/pond.parquet"]})
    assert not [request for request in hub.requests[start:] if request.method == "PUT"]
    assert hub.read("me/fish", "data/lake.parquet") == FILES["data/pond.parquet"]


def test_a_range_of_a_file_is_read(hub: Hub, client: Client) -> None:
    upload(client)
    start = len(hub.requests)
    code = """
    from huggingface_hub import HfFileSystem
    with HfFileSystem().open("datasets/me/fish/data/pond.parquet", "rb", cache_type="none") as file:
        file.seek(2)
        result = file.read(4)
    """
    assert client.run(code) == b"R1PA"
    assert hub.sent(start, "/objects/") == 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"token": "hf_nobodynobody"}, "401"),
        ({"token": False}, "401"),
        ({"token": READER}, "403"),
        ({"parent": "0" * 40, "files": {"new.txt": b"new"}}, "412"),
        ({"files": {"README.md": b"---\na: [\n---\n"}}, "Invalid metadata"),
    ],
)
def test_what_the_hub_refuses(
    hub: Hub, client: Client, changed: dict[str, object], message: str
) -> None:
    upload(client)
    before = hub.content("me/fish")
    with pytest.raises(ClientError, match=message):
        upload(client, **changed)
    assert hub.content("me/fish") == before


def test_a_private_repository_is_hidden_from_strangers(hub: Hub, client: Client) -> None:
    code = "from huggingface_hub import HfApi\n"
    client.run(
        code + "HfApi(token=token).create_repo('me/secret', repo_type='dataset', private=True)",
        token=WRITER,
    )
    look = code + "result = HfApi(token=token).repo_info(name, repo_type='dataset').private"
    assert client.run(look, token=READER, name="me/secret") is True
    for token, name in ((False, "me/secret"), (READER, "me/nothing")):
        with pytest.raises(ClientError, match="RepositoryNotFoundError"):
            client.run(look, token=token, name=name)


@pytest.mark.parametrize("where", ["before", "middle", "after"])
def test_a_connection_that_is_closed_is_an_error(hub: Hub, client: Client, where: str) -> None:
    upload(client)
    look = "from huggingface_hub import HfApi\nresult = HfApi().dataset_info('me/fish').sha"
    start = len(hub.requests)
    with hub.closing(0, where), pytest.raises(ClientError):
        client.run(look)
    assert (len(hub.requests) > start) == (where != "before")
    assert client.run(look) == hub.repos["me/fish"].refs["main"]
