"""The columns of an imported zoo's source that no row has, beside zoo.json or in a repository."""

from __future__ import annotations

import os
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InvalidArgument
from .homes import find_zoos, zoos_home, zoos_repository
from .names import normalize_name
from .untrusted import read_plain
from .zoo_directory import MAX_SOURCE_COLUMNS, SOURCE_COLUMNS, ZooDirectory


def source_columns(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    repo: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> pa.Table:
    """Return the columns of an imported zoo's source that no row has, as texts.

    Args:
        name: a zoo or a union.
        data_dir, repo, revision: where zoos are, as arguments of load_dataset.
        token: of the Hub.

    Returns:
        A table with the columns `zoo`, `model_id`, `epoch` (if the source has a row for each state)
        and those of the source.

    Raises:
        InvalidArgument: no zoo of this name has such columns.
        ZooNotFound, UnknownZoo: there is no such zoo.
        FaultyZoo: the file cannot be read.
        HubUnreachable, HubFailed: the repository cannot be read.
    """
    from .hub.checked import naming
    from .hub.names import source_file
    from .hub.read import open_repository, read_source_file

    found = find_zoos(normalize_name(name), zoos_home(data_dir))
    repo = zoos_repository(None if repo is None else os.fspath(repo))
    if repo and not found.all_here:
        found = replace(found, repository=open_repository(repo, revision, token))
    tables = []
    for source in found.sources():
        content = None
        if isinstance(source, ZooDirectory):
            zoo, place = source.zoo.name, str(source.path / SOURCE_COLUMNS)
            if os.path.exists(place):
                with naming(place):
                    content = read_plain(place, MAX_SOURCE_COLUMNS)
        elif found.repository is not None:
            zoo, place = source, f"{found.repository}/{source_file(source)}"
            content = read_source_file(found.repository, source, MAX_SOURCE_COLUMNS, token)
        if content is not None:
            with naming(place):
                tables.append(_of_zoo(zoo, pq.read_table(pa.BufferReader(content))))
    if not tables:
        raise InvalidArgument(
            f"{name} has no columns beside its rows: it has no {SOURCE_COLUMNS}, which the import "
            "of a table or of the Small CNN Zoo writes"
        )
    return pa.concat_tables(tables, promote_options="default")


def _of_zoo(zoo: str, table: pa.Table) -> pa.Table:
    """Return a table with the zoo as first column; a column of this name becomes zoo_in_table."""
    names = ["zoo_in_table" if name == "zoo" else name for name in table.column_names]
    zoos = pa.array([zoo] * len(table), pa.string())
    return table.rename_columns(names).add_column(0, "zoo", zoos)
