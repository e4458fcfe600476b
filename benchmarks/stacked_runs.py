"""Training tokens per second: many runs as one program against an eager loop over the runs.

The runs are of the study's transformer (d 128, 4 heads, ff 256, 3 layers, T 128, 65 letters,
pre-norm, GELU), batch 64 each, bfloat16, AdamW, and differ in their seeds. The baseline
trains one run after the other with bfloat16 autocast, launching each kernel from Python, so
its rate is that of one run. `--dropout` adds a second result with dropout in both.
"""

import argparse
import dataclasses
import statistics
from typing import Any

import torch

from benchmarks import common, ours, plain, texts
from lmbench.config import make
from lmbench.measure.flops import train_flops
from lmbench.run import Run

BASELINE_RUNS = 2  # of the loop over the runs, whose rate does not depend on their number
WARM_UP = 10  # steps of the baseline before it is timed
QUICK = {"seq_len": 16, "d_model": 16, "d_ff": 32, "n_layer": 1}


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure and report; returns what was printed."""
    options = parser(__doc__, runs=64).parse_args(arguments)
    results = [measure(options, name="stacked_runs", dropout=0.0)]
    if options.dropout:
        results.append(measure(options, name="stacked_runs_dropout", dropout=options.dropout))
    return results


def parser(description: str, *, runs: int) -> argparse.ArgumentParser:
    """The options of a benchmark of training speed."""
    made = common.parser(description, repeats=5)
    made.add_argument("--runs", type=int, default=runs, help="runs in the program (default: %(default)s)")
    made.add_argument("--steps", type=int, default=50, help="steps per timing (default: %(default)s)")
    made.add_argument("--dropout", type=float, nargs="?", const=0.1, help="also with dropout (0.1)")
    made.add_argument("--compiled", action=argparse.BooleanOptionalAction, help="our program")
    made.add_argument("--text", choices=texts.NAMES, default="tiny_shakespeare")
    return made


def measure(options: argparse.Namespace, *, name: str, dropout: float) -> dict[str, Any]:
    """One result: `options.runs` runs of the study's transformer at one dropout rate."""
    device = common.settle(options)
    shape = dataclasses.replace(plain.STUDY, dropout=dropout, **(QUICK if options.quick else {}))
    runs, steps = (min(options.runs, 3), 2) if options.quick else (options.runs, options.steps)
    with texts.cut_folder(options.text, quick=options.quick) as folder:
        run = Run(
            model=ours.model_like(shape),
            task=texts.task(folder),
            steps=steps * (options.repeats + 1) + WARM_UP,
            batch_size=4 if options.quick else 64,
            optimizer=make("optimizer", "adamw"),
            dtype="bfloat16",
            test=False,
        )
        loops = [_plain_loop(shape, run, seed=seed, device=device) for seed in range(BASELINE_RUNS)]
        measured, start_seconds = _time(run, runs, loops, steps=steps, device=device, options=options)
    flops = train_flops(run.model, readout="all", sequences=1) / shape.seq_len
    return common.report(
        name=name,
        device=common.named(device),
        ours=measured[0],
        baseline=measured[1],
        unit="Mtok/s",
        better="higher",
        out=options.out,
        ours_is=f"{runs} runs as one program, bfloat16",
        baseline_is="eager loop over the runs, bfloat16 autocast",
        start_seconds=start_seconds,
        ours_tflops=statistics.median(measured[0]) * flops / 1e6,
        peak_memory_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        settings={
            "runs": runs,
            "steps_per_repeat": steps,
            "text": options.text,
            "quick": options.quick,
            "compiled": options.compiled,
            "dtype": run.dtype,
            "batch_size": run.batch_size,
            "model": run.model.canonical(),
            "optimizer": run.optimizer.canonical(),
        },
    )


def _time(
    run: Run,
    n_runs: int,
    loops: list[plain.Loop],
    *,
    steps: int,
    device: torch.device,
    options: argparse.Namespace,
) -> tuple[tuple[list[float], list[float]], float]:
    """Paired rates in millions of tokens per second, and the seconds to build and warm up our program."""
    built: list[Any] = []

    def start() -> None:
        one_program = ours.program(ours.runs_of(run, n_runs), device=device, compiled=options.compiled)
        built.append(one_program)
        built[0].advance(steps)

    def loop_over_runs(steps: int) -> None:
        for loop in loops:
            loop.advance(steps)

    start_seconds = common.seconds(start, device=device)
    loop_over_runs(WARM_UP)
    tokens = steps * run.batch_size * run.model.seq_len / 1e6
    measured = common.paired(
        lambda: n_runs * tokens / common.seconds(lambda: built[0].advance(steps), device=device),
        lambda: len(loops) * tokens / common.seconds(lambda: loop_over_runs(steps), device=device),
        repeats=options.repeats,
    )
    return measured, start_seconds


def _plain_loop(shape: plain.Shape, run: Run, *, seed: int, device: torch.device) -> plain.Loop:
    """One run of the baseline, with the recipe of `run`."""
    ids_N = ours.ids(run.task, "train", device)
    torch.manual_seed(seed)
    recipe = plain.Recipe(steps=run.steps, batch_size=run.batch_size, lr=run.optimizer.lr, warmup=0)
    return plain.loop_of(plain.GPT(shape).to(device), ids_N, recipe, seed=seed, bf16=True)


if __name__ == "__main__":
    main()
