"""Check that splits are those of `assign_splits` for a zoo that was made in several runs.

`assign_splits` takes the models of one run in the order of a digest of their ids. A zoo can be made
in several runs, each with some more models, and nothing on disk records where one run ended. So the
splits are right if there is any way to divide the models into runs that gives them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..builders.splits import SPLITS, assign_splits, next_split

_TRIALS = 2000


def assigned_in_runs(splits: Mapping[str, str], order: Sequence[str]) -> bool | None:
    """Whether assigning the models run by run, each run the next of `order`, gives these splits.

    A run can end only where each split has as many models as the shares demand of that total, since
    the counts do not depend on the order in a run. Among these points a breadth-first search looks
    for a chain of runs from the first model to the last.

    Args:
        splits: model id -> split.
        order: the ids of the same models, in the order of the zoo's specification.

    Returns:
        Whether there is such a chain; None if there are too many ways to try.
    """
    counts, wanted = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    cuts = [0]  # numbers of models after which a run may have ended
    for number, model in enumerate(order, start=1):
        wanted[next_split(wanted)] += 1
        counts[splits[model]] += 1
        if counts == wanted:
            cuts.append(number)
    if cuts[-1] != len(order):
        return False
    reached, seen, trials = [0], {0}, 0
    while reached:
        start = reached.pop(0)
        first = {model: splits[model] for model in order[:start]}
        for end in reversed(cuts):  # most zoos are made in one run
            if end <= start or end in seen:
                continue
            trials += 1
            if trials > _TRIALS:
                return None
            given = assign_splits(first, order[:end])
            if all(given[model] == splits[model] for model in order[start:end]):
                if end == len(order):
                    return True
                seen.add(end)
                reached.append(end)
    return not order
