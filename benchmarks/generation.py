"""Examples per second of every level of every synthetic task, on one thread, against a plain loop.

Both sides give the token ids of training examples. The loop is what one would write for chain level 1
without lmbench: the `random` module, one example at a time, and splits by a hash of a canonical string.
`ours`, `baseline` and the ratio compare the two on that level, as a ratio must compare like with like.
Beside them stand the rates of all levels (`levels`) and the slowest of them (`slowest`), which the
target is set for.
"""

import argparse
import hashlib
import random
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from benchmarks import common
from lmbench.config import kinds, make
from lmbench.tasks.chain import Chain
from lmbench.tasks.examples import PARTS, TRAIN, VALID, examples
from lmbench.tasks.symbols import ID, NAMES
from lmbench.tasks.synthetic import SyntheticTask

LIKE = Chain(level=1)
"""What the plain loop generates."""
WARM_UP = 100  # examples of each level before the clock starts: some levels make tables at first


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure and report; returns what was printed."""
    parser = common.parser(__doc__, repeats=5)
    parser.add_argument("--examples", type=int, default=50_000, help="of a timing (default: %(default)s)")
    options = parser.parse_args(arguments)
    options.device, options.threads = options.device or "cpu", options.threads or 1
    device = common.settle(options)
    if options.examples < 1:
        raise ValueError(f"--examples = {options.examples} is not accepted; it must be at least 1")
    return [_measure(options, n=200 if options.quick else options.examples, device=device)]


def all_levels() -> dict[str, SyntheticTask]:
    """Each level of each synthetic task, by name: `chain 1`."""
    found = [cls for cls in kinds("task").values() if issubclass(cls, SyntheticTask)]
    tasks = [make("task", cls.kind, level=level) for cls in found for level in range(len(cls.LEVELS))]
    return {f"{task.kind} {task.level_name}": task for task in tasks}


def plain_examples(n: int, *, seed: int, split: str) -> list[list[int]]:
    """Token ids of n examples like those of chain level 1, made one after the other."""
    rng, found = random.Random(f"{seed} {split}"), []
    hops, chains, modulus, _ = LIKE.settings
    while len(found) < n:
        steps = [[rng.randrange(modulus) for _ in range(hops + 1)] for _ in range(chains)]
        if plain_split(f"{steps[0]} among {sorted(steps[1:])}") != split:
            continue
        names = rng.sample(NAMES, chains * (hops + 1))
        statements = []
        for at, (root, *increments) in enumerate(steps):
            mine = names[at * (hops + 1) : (at + 1) * (hops + 1)]
            statements.append(f"{mine[0]} = {root}")
            for before, name, increment in zip(mine, mine[1:], increments, strict=False):
                statements.append(f"{name} = {before} + {increment}")
        rng.shuffle(statements)
        text = f"<bos> {' ; '.join(statements)} ? {names[hops]} = {sum(steps[0]) % modulus}"
        found.append([ID[symbol] for symbol in text.split()])
    return found


def plain_split(form: str) -> str:
    """The split of a canonical string, in the same shares as ours."""
    part = int.from_bytes(hashlib.sha256(form.encode()).digest()[:8], "little") % PARTS
    return "train" if part < TRAIN else "valid" if part < VALID else "test"


def rate(task: SyntheticTask, *, n: int, device: torch.device) -> float:
    """Thousand training examples a second of one level, of one call for all of them."""
    index_N = np.arange(n)
    return n / common.seconds(lambda: _generate(task, index_N), device=device) / 1e3


def _generate(task: SyntheticTask, index_N: np.ndarray) -> None:
    examples(task, seed=0, split="train", index_N=index_N)


def _rates(
    tasks: Mapping[str, SyntheticTask], *, n: int, repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """The rates of each level; every repeat goes through all, so that a slow minute falls on none alone."""
    measured: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        _generate(task, np.arange(min(n, WARM_UP)))
    for _ in range(repeats):
        for name, task in tasks.items():
            measured[name].append(rate(task, n=n, device=device))
    return measured


def _measure(options: argparse.Namespace, *, n: int, device: torch.device) -> dict[str, Any]:
    each = _rates(all_levels(), n=n, repeats=options.repeats, device=device)
    ours, baseline = common.paired(
        lambda: rate(LIKE, n=n, device=device),
        lambda: n / common.seconds(lambda: plain_examples(n, seed=0, split="train"), device=device) / 1e3,
        repeats=options.repeats,
    )
    levels = {name: statistics.median(rates) for name, rates in each.items()}
    slowest = min(levels, key=levels.__getitem__)
    return common.report(
        name="generation",
        device=common.named(device),
        ours=ours,
        baseline=baseline,
        unit="thousand examples/s",
        better="higher",
        out=options.out,
        ours_is="lmbench, chain level 1",
        baseline_is="a plain loop, chain level 1",
        slowest=levels[slowest],
        slowest_level=slowest,
        slowest_each=each[slowest],
        levels=levels,
        settings={"examples": n, "quick": options.quick},
    )


if __name__ == "__main__":
    main()
