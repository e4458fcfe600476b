"""How often the intervals of "k times earlier" hold the truth: the larger study behind the tests.

The cells are those of `lmbench.analysis.coverage.designs`: methods by seeds, grid and share
censored, each with its own experiments. Nothing is timed, and no torch is needed.
"""

import argparse
import json
import os
import platform
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy

from lmbench.analysis.coverage import ERRORS, NOMINAL, PERMUTATIONS, RESAMPLES, as_table, designs, simulate
from lmbench.home import commit
from lmbench.progress import Progress
from lmbench.records import write_json

NAME = "coverage.json"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Simulate every cell, print the table, keep it in `--out` if given, and return what is kept."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=2000, help="experiments a cell (default: %(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="20 experiments: shows that it runs, measures nothing"
    )
    parser.add_argument("--out", type=Path, help=f"folder for {NAME}")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        raise ValueError(f"--repeats = {options.repeats} is not accepted; it must be at least 1")
    cells, start = list(designs()), time.monotonic()
    found = []
    with Progress(len(cells), "cells") as progress:
        for place, (method, design) in enumerate(cells):
            progress.update(place, f"{method}, {design.n} seeds")
            repeats = 20 if options.quick else options.repeats
            found.append(simulate(method, design, repeats=repeats, seed=options.seed))
    table = as_table(found)
    result = {
        "name": "coverage",
        "seed": options.seed,
        "nominal": NOMINAL,
        "errors": ERRORS,
        "resamples": RESAMPLES,
        "permutations": PERMUTATIONS,
        "cells": json.loads(table.to_json(orient="records", double_precision=15)),
        "found": dict(Counter(table["found"])),
        "seconds": round(time.monotonic() - start, 1),
        **circumstances(),
    }
    print(table.drop(columns=["repeats", "covered", "median_a"]).to_string(index=False, float_format="%.4g"))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        write_json(options.out / NAME, result)
    return result


def circumstances() -> dict[str, Any]:
    """What may change a number, or how long it took."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "pandas": pd.__version__,
        "commit": commit(),
        "load_average": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
