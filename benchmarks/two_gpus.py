"""Training tokens per second of one large run on two GPUs under torchrun against the same run on one.

The run is nanoGPT's smallest GPT-2 by characters (d 768, 12 layers and heads, T 1024, 85.8M
parameters), 128 sequences a step whatever the number of processes, bfloat16, AdamW. One GPU
trains it as `lmbench train` does alone, compiled and with each step one captured graph. All
processes live for the whole measurement and take turns: when one GPU trains, the others wait.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import common, texts
from lmbench.config import make
from lmbench.measure.flops import parameters, train_flops
from lmbench.run import Run
from lmbench.training.distributed import Ranks
from lmbench.training.execute import fit_model
from lmbench.training.program import Program
from lmbench.training.torchrun import joined, own_device

WARM_UP = 5  # steps: a graph is captured at the fourth
LARGE = {"d_model": 768, "n_layer": 12, "n_head": 12, "seq_len": 1024, "dropout": 0.0}
QUICK = {"d_model": 16, "n_layer": 1, "n_head": 2, "seq_len": 16, "dropout": 0.0}


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure and report; returns what was printed. Starts torchrun, whose processes come back here."""
    options = _parser().parse_args(arguments)
    if options.folder is not None:
        device = own_device(common.settle(options))
        with joined(device) as ranks:
            return measure(options, options.folder, ranks=ranks)
    with texts.cut_folder(options.text, quick=options.quick) as folder:
        given = sys.argv[1:] if arguments is None else arguments
        return launch([*given, "--folder", str(folder)], processes=options.processes)


def launch(arguments: list[str], *, processes: int) -> list[dict[str, Any]]:
    """Run this script under torchrun, in this environment, and print the lines of its first process.

    Raises:
        subprocess.CalledProcessError: a process failed.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), "-m", "benchmarks.two_gpus", *arguments]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=root)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    print(*lines, sep="\n", flush=True)
    return [json.loads(line) for line in lines]


def measure(options: argparse.Namespace, folder: Path, *, ranks: Ranks) -> list[dict[str, Any]]:
    """What each process does; the first one reports."""
    device = own_device(common.settle(options))
    steps = 2 if options.quick else options.steps
    total = WARM_UP + steps * (options.repeats + 1)
    run = large_run(folder, steps=total, sequences=options.sequences, quick=options.quick)
    tokens = steps * run.batch_size * run.model.seq_len / 1e6
    compiled = device.type == "cuda" if options.compiled is None else options.compiled

    def rate(program: Program) -> float:
        return tokens / common.seconds(lambda: program.advance(steps), device=device)

    def warm(program: Program) -> float:
        return common.seconds(lambda: program.advance(WARM_UP), device=device)

    # One GPU first: its graph is captured before the processes have said a word over NCCL.
    built = [Program([run], device=device, compiled=compiled)] if ranks.is_first else []
    start = [ranks.first(lambda: warm(built[0]))]
    shared = Program([run], device=device, compiled=compiled, ranks=ranks)
    start.append(warm(shared))

    def together() -> float:
        ranks.first(lambda: None)  # all begin at once
        return rate(shared)

    measured = common.paired(together, lambda: ranks.first(lambda: rate(built[0])), repeats=options.repeats)
    if not ranks.is_first:
        return []
    apart = (shared.losses_SR - built[0].losses_SR)[: shared.done].abs().max().item()
    flops = train_flops(run.model, readout="all", sequences=1) / run.model.seq_len
    name = ranks.env({"device": common.named(device)}, device=device)["device"]
    result = common.report(
        name="two_gpus",
        device=name,
        ours=measured[0],
        baseline=measured[1],
        unit="Mtok/s",
        better="higher",
        out=options.out,
        ours_is=f"{ranks.n} processes: {shared.execution.engine}, bfloat16",
        baseline_is=f"one process: {built[0].execution.engine}, bfloat16",
        processes=ranks.n,
        parameters=parameters(run.model).total,
        tflops=[max(rates) * flops / 1e6 for rates in measured],
        start_seconds=start,
        largest_loss_difference=apart,
        settings={
            "steps_per_repeat": steps,
            "text": options.text,
            "quick": options.quick,
            "compiled": compiled,
            "dtype": run.dtype,
            "batch_size": run.batch_size,
            "model": run.model.canonical(),
            "optimizer": run.optimizer.canonical(),
        },
    )
    return [result]


def large_run(folder: Path, *, steps: int, sequences: int, quick: bool) -> Run:
    """The run that both sides train, with so many sequences a step."""
    task = texts.task(folder)
    model = make("model", "transformer_nanogpt", **(QUICK if quick else LARGE))
    return Run(
        model=fit_model(model, task),
        task=task,
        steps=steps,
        batch_size=8 if quick else sequences,
        optimizer=make("optimizer", "adamw", lr=6e-4),
        dtype="bfloat16",
        test=False,
    )


def _parser() -> argparse.ArgumentParser:
    parser = common.parser(__doc__, repeats=5)
    parser.add_argument("--processes", type=int, default=2, help="and GPUs (default: %(default)s)")
    parser.add_argument(
        "--sequences", type=int, default=128, help="of a step, over all processes (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=10, help="steps per timing (default: %(default)s)")
    parser.add_argument(
        "--compiled", action=argparse.BooleanOptionalAction, help="both sides (default: on a GPU)"
    )
    parser.add_argument("--text", choices=texts.NAMES, default="made_up")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # the cut text, for launched processes
    return parser


if __name__ == "__main__":
    main()
