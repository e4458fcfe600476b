"""Examples that may never change under one version: stored results were scored on them.

If a generator has to change, bump the kind's `version` and renew its line:
`python -m tests.test_golden_examples` writes the file.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from lmbench.config import kinds, make
from lmbench.tasks.examples import examples
from lmbench.tasks.synthetic import SyntheticTask

FILE = Path(__file__).parent / "golden_examples.json"
KINDS = sorted(name for name, cls in kinds("task").items() if issubclass(cls, SyntheticTask))


def found(kind):
    """The version, and of each level the config's digest and a hash of some train and test examples."""
    levels = []
    for level in range(len(kinds("task")[kind].LEVELS)):
        task = make("task", kind, level=level)
        body = hashlib.sha256()
        for split, rewrite in (("train", 0), ("test", 0), ("test", 1)):
            made = examples(task, seed=5, split=split, index_N=np.arange(40), rewrite=rewrite)
            for row, is_answer in zip(made.tokens_NT, made.is_answer_NT, strict=True):
                body.update(row[row > 0].tobytes() + np.flatnonzero(is_answer).astype("<i8").tobytes())
        levels.append([task.digest, body.hexdigest()[:16]])
    return {"version": kinds("task")[kind].version, "levels": levels}


@pytest.mark.parametrize("kind", KINDS)
def test_examples_of_a_version_do_not_change(kind):
    assert found(kind) == json.loads(FILE.read_text())[kind]


if __name__ == "__main__":
    FILE.write_text(json.dumps({kind: found(kind) for kind in KINDS}, indent=1) + "\n")
