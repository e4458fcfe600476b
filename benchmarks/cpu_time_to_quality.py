"""Seconds of training on the CPU to a validation loss of 1.88 nats on Tiny Shakespeare.

The baseline is nanoGPT's CPU recipe (0.80M parameters, 2,000 steps of AdamW) as a plain eager
float32 loop; lmbench may use any model and recipe. Seconds count building and training; the
scores in between, over the whole validation split by disjoint windows of each side's context,
are left out for both.
"""

import argparse
from typing import Any

import torch

from benchmarks import common, ours, plain, texts
from benchmarks.until import Attempt, train_until
from lmbench.config import Config
from lmbench.tasks.base import load_task

TARGET = 1.88  # nats: what nanoGPT's README gives for this recipe

# Ours, in the keys of `lmbench train -p`.
RECIPE: dict[str, Any] = {
    "model": "transformer_fast",
    "model.d_model": 128,
    "model.n_head": 4,
    "model.n_layer": 2,
    "model.seq_len": 64,
    "model.dropout": 0.0,
    "batch_size": 12,
    "steps": 540,
    "optimizer": "muon",
    "optimizer.lr": 0.03,
    "optimizer.adam_lr": 0.006,
    "optimizer.weight_decay": 0.1,
    "schedule": "wsd",
    "schedule.warmup": 20,
    "schedule.decay": 0.8,
    "dtype": "bfloat16",
}
SCORE_AT = range(480, 540, 20)  # and at the end
COMPILED: bool | None = None  # whether our program is compiled; None leaves it to the engine
BASELINE_SCORE_AT = range(1000, 2001, 50)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure and report; returns what was printed."""
    parser = common.parser(__doc__, repeats=3)
    parser.add_argument("--target", type=float, default=TARGET, help="nats (default: %(default)s)")
    parser.add_argument("--text", choices=texts.NAMES, default="tiny_shakespeare")
    options = parser.parse_args(arguments)
    options.device = options.device or "cpu"
    device = common.settle(options)
    if options.quick:
        options.target = 100.0
    attempts: tuple[list[Attempt], list[Attempt]] = ([], [])
    with texts.cut_folder(options.text, quick=options.quick) as folder:
        task = texts.task(folder)
        load_task(task)  # reading the text is no training
        for seed in range(options.repeats):
            for side in (0, 1) if seed % 2 == 0 else (1, 0):
                attempts[side].append((_ours, _plain)[side](task, options, seed=seed, device=device))
    return [_report(options, attempts, device=common.named(device))]


def _ours(task: Config, options: argparse.Namespace, *, seed: int, device: torch.device) -> Attempt:
    run = ours.recipe_run(ours.QUICK if options.quick else RECIPE, task, seed=seed)
    built: list[Any] = []

    def advance(steps: int) -> None:
        if not built:  # so that the first step's seconds hold the building, as on the other side
            built.append(ours.program([run], device=device, compiled=COMPILED))
        built[0].advance(steps)

    return train_until(
        advance,
        lambda: ours.valid_nll(built[0]),
        target=options.target,
        score_at=[step for step in SCORE_AT if step < run.steps] + [run.steps],
        device=device,
    )


def _plain(task: Config, options: argparse.Namespace, *, seed: int, device: torch.device) -> Attempt:
    shape, recipe = plain.NANOGPT_CPU, plain.NANOGPT_CPU_RECIPE
    score_at = [4] if options.quick else BASELINE_SCORE_AT
    train_N, valid_N = ours.ids(task, "train", device), ours.ids(task, "valid", device)
    built: list[plain.Loop] = []

    def advance(steps: int) -> None:
        if not built:
            torch.manual_seed(seed)
            model = plain.nanogpt_weights(plain.GPT(shape)).to(device)
            built.append(plain.loop_of(model, train_N, recipe, seed=seed, bf16=False))
        built[0].advance(steps)

    return train_until(
        advance,
        lambda: plain.score(built[0].model, valid_N, seq_len=shape.seq_len),
        target=options.target,
        score_at=score_at,
        device=device,
    )


def _report(
    options: argparse.Namespace, attempts: tuple[list[Attempt], list[Attempt]], *, device: str
) -> dict[str, Any]:
    """Refuses a time that ours did not reach; one that nanoGPT did not reach counts to its best score."""
    missed = [attempt for attempt in attempts[0] if not attempt.reached]
    if missed:
        raise ValueError(
            f"the recipe did not reach {options.target} nats in {len(missed)} of {len(attempts[0])} runs; "
            f"its best was {missed[0].nll:.4f} at step {missed[0].step} after {missed[0].seconds:.1f} s"
        )
    each = {
        f"{side}_{name}": [getattr(attempt, name) for attempt in made]
        for side, made in zip(("ours", "baseline"), attempts, strict=True)
        for name in ("nll", "step", "first_seconds", "reached")
    }
    return common.report(
        name="cpu_time_to_quality",
        device=device,
        ours=[attempt.first_seconds + attempt.seconds for attempt in attempts[0]],
        baseline=[attempt.first_seconds + attempt.seconds for attempt in attempts[1]],
        unit="s",
        better="lower",
        out=options.out,
        ours_is="lmbench, the recipe in settings",
        baseline_is="nanoGPT's CPU recipe, eager float32; where it missed the target, until its best score",
        **each,
        settings={
            "recipe": ours.QUICK if options.quick else RECIPE,
            "target": options.target,
            "text": options.text,
            "quick": options.quick,
        },
    )


if __name__ == "__main__":
    main()
