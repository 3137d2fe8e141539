"""Make `load_dataset("model_zoos", ...)` find the builder of dataset.py.

datasets takes about a second to import, and not every use of model_zoos needs it. So the builder is
registered when datasets is imported, or at once if it is imported already.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import HubFailed, OfflineWarning, ZooNotFound
from .catalog import config_names
from .homes import zoos_home, zoos_repository
from .model_file import FORMAT
from .schema import row_schema
from .zoo_directory import list_zoo_directories

if TYPE_CHECKING:
    import datasets.load


def register(version: str) -> None:
    """Register the builder, now or when datasets is imported.

    Args:
        version: of model_zoos; a part of the cache's path, so that cached rows of another version
            are never used.
    """
    if "datasets" in sys.modules:
        _register(version)
    elif not any(isinstance(finder, _WhenImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported("datasets", lambda: _register(version)))


class _WhenImported(importlib.abc.MetaPathFinder):
    """Calls a function after a module has been imported.

    Args:
        name: of the module.
        action: the function.
    """

    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self.name, self.action, self._searching = name, action, False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what other finders find; loading the awaited module then also calls the action."""
        if fullname != self.name or self._searching:
            return None
        self._searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._searching = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:  # only once
                    sys.meta_path.remove(self)
                    self.action()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _there(
    data_dir: str | os.PathLike[str] | None = None,
    repo: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> list[str]:
    """Return the names of the zoos of a folder, then of a repository; arguments of load_dataset.

    Raises:
        HubFailed, ZooNotFound, InvalidArgument: the repository of the argument cannot be read. For
            that of MODEL_ZOOS_REPO, there is a warning.
    """
    from .dataset import warn_user
    from .hub.read import open_repository

    names = list_zoo_directories(zoos_home(data_dir))
    place = zoos_repository(None if repo is None else os.fspath(repo))
    if place is None:
        return names
    try:
        return [*names, *open_repository(place, revision, token).zoos()]
    except (HubFailed, ZooNotFound) as error:
        if repo is not None:
            raise
        warn_user(f"the zoos of MODEL_ZOOS_REPO={place} are left out: {error}", OfflineWarning)
        return names


def _register(version: str) -> None:
    """Make the factory of datasets return our builder for our name, and pass on all other names.

    datasets 4 and later run no loading scripts, and look for a bare name only on the Hub.
    """
    import datasets.inspect
    import datasets.load

    original = datasets.load.dataset_module_factory
    if getattr(original, "knows_model_zoos", False):
        return
    form = json.dumps([version, FORMAT, str(row_schema(1))])

    def dataset_module_factory(
        path: str, revision: str | None = None, *args: object, **kwargs: object
    ) -> datasets.load.DatasetModule:
        if path != "model_zoos":
            return original(path, revision, *args, **kwargs)
        return datasets.load.DatasetModule(
            module_path="model_zoos.builders.dataset",
            hash=hashlib.sha256(form.encode()).hexdigest()[:16],
            # otherwise datasets does not pass on load_dataset's revision=
            builder_kwargs={"revision": revision} if revision is not None else {},
        )

    dataset_module_factory.knows_model_zoos = True  # type: ignore[attr-defined]

    def listing_factory(path: str, *args: object, **kwargs: object) -> datasets.load.DatasetModule:
        """Wrap the factory for `get_dataset_config_names`: local and published zoos first."""
        from .dataset import ModelZoosConfig

        if path != "model_zoos":
            return original(path, *args, **kwargs)
        module = dataset_module_factory(path)
        given: dict[str, Any] = kwargs
        places = [given.get(name) for name in ("data_dir", "repo", "revision", "token")]
        names = dict.fromkeys([*_there(*places), *config_names()])
        configs = [ModelZoosConfig(name=name) for name in names]
        module.builder_configs_parameters.builder_configs = configs
        return module

    datasets.load.dataset_module_factory = dataset_module_factory
    datasets.inspect.dataset_module_factory = listing_factory
