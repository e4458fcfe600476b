"""A recipe of lmbench until a validation loss is reached: our side of the time to quality.

Takes the recipe as JSON, in the flat keys of `lmbench train -p`, and prints one JSON line per
score like `nanogpt_loop`, so that the same launcher times both from process start.
"""

import argparse
import json
from pathlib import Path

import torch

from benchmarks import ours, texts
from benchmarks.nanogpt_loop import say
from benchmarks.until import Attempt, train_until


def main(arguments: list[str] | None = None) -> Attempt:
    """Train and print; returns the attempt."""
    options = _parser().parse_args(arguments)
    device = torch.device(options.device)
    run = ours.recipe_run(json.loads(options.recipe), texts.task(options.text), seed=options.seed)
    program = ours.program([run], device=device, compiled=options.compiled)
    attempt = train_until(
        program.advance,
        lambda: ours.valid_nll(program),
        target=options.target,
        score_at=[step for step in json.loads(options.score_at) if step < run.steps] + [run.steps],
        device=device,
        on_score=say,
    )
    say(attempt, last=True)
    return attempt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--text", type=Path, required=True, help="folder with train.txt and valid.txt")
    parser.add_argument("--target", type=float, required=True, help="nats")
    parser.add_argument("--recipe", required=True, help="JSON object of keys of a run")
    parser.add_argument("--score-at", default="[]", help="JSON list of steps, besides the last")
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda")
    return parser


if __name__ == "__main__":
    main()
