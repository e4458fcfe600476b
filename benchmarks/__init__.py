"""Benchmarks: lmbench timed against the plain loops that a user would write without it.

One script per row of the performance targets, run from the project root:

    python -m benchmarks.stacked_runs --out results/reference/performance

Each prints one JSON line per result and, with `--out`, keeps it as a file; `lmbench report`
draws the table. Ratios come from pairs measured one after the other in one process, because
seconds of different machines or hours do not compare. No test asserts a ratio.
"""

import lmbench  # noqa: F401  before torch: it sets how long idle threads spin, and both sides get that
