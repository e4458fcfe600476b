"""Records that are asked for: what a store holds is read, and what it lacks is made first.

Everything that a table is made of (scores, curves, speeds, files) is a record under the digest of its
config. Whoever needs one builds the config and asks; the answer is the record's rows, whether they
were made a moment ago, by another process or on another machine. A read-only store makes nothing.
"""

from collections.abc import Callable
from typing import Any

import pandas as pd

from lmbench.config import Config, from_dict
from lmbench.records import Records
from lmbench.store import Store


def read_or_make(
    asked: Config, *, what: str, store: Records, make: Callable[[Any, Store], None]
) -> pd.DataFrame:
    """Tidy rows of a record, which is made first if the store lacks it.

    Args:
        asked: the record's config.
        what: it is, for the sentence that a store lacks it: "the exit curve of run 1f0c".
        make: claims the record of `asked` in the store and finishes it, unless another process does.

    Raises:
        ValueError: a read-only store that lacks the record.
    """
    if not store.has(asked.digest):
        if not isinstance(store, Store):
            raise ValueError(f"the reference results {store.root} lack {what}")
        store.ensure(asked.digest, lambda: make(asked, store))
    # `frame` and not `rows`: what a report was made of is packed with it.
    return store.frame([asked.digest])


def config_of(digest: str, *, store: Records) -> Config:
    """The config of a record, a run's for example.

    Raises:
        ValueError: no such record, or one that cannot be built again.
    """
    return from_dict("run", store.record(digest)["run"]["config"])
