"""Training tokens per second of a single run of the study's transformer against the eager loop.

The same as `stacked_runs` with one run: what a user gains who trains one model at a time.
"""

from typing import Any

from benchmarks import stacked_runs


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure and report; returns what was printed."""
    options = stacked_runs.parser(__doc__, runs=1).parse_args(arguments)
    results = [stacked_runs.measure(options, name="single_run", dropout=0.0)]
    if options.dropout:
        results.append(stacked_runs.measure(options, name="single_run_dropout", dropout=options.dropout))
    return results


if __name__ == "__main__":
    main()
