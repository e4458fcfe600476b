"""Seconds from process start to a validation loss of 1.4697 nats on Tiny Shakespeare.

Both sides are processes of their own, timed from their launch to the line that says that the
target is reached: imports, device start, compilation with an empty cache, training and
scoring are all in it. The baseline is nanoGPT's recipe (`nanogpt_loop`); lmbench may use any
model. Both are scored over nanoGPT's whole validation split by disjoint windows of their own
context. `--best` asks instead for the best loss within the FLOPs of nanoGPT's whole recipe.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common, ours, plain, texts
from lmbench.measure.flops import train_flops

TARGET = 1.4697  # nats: the best validation loss that nanoGPT publishes for this recipe
NANOGPT_FLOPS = 5.8e15  # of its 5,000 steps, by its own formula
PATIENCE = 4  # scores of nanoGPT without a better one: it overfits after 1,750 steps

# Ours, in the keys of `lmbench train -p`. Rate, decay, width and batch were chosen on validation, with
# seed 0, among some 50 settings trained side by side; of the seeds reported, 1 and 2 are fresh.
RECIPE: dict[str, Any] = {
    "model": "transformer_fast",
    "model.d_model": 192,
    "model.n_head": 6,
    "model.n_layer": 6,
    "model.seq_len": 256,
    "model.dropout": 0.0,
    "batch_size": 32,
    "steps": 700,
    "optimizer": "muon",
    "optimizer.lr": 0.04,
    "optimizer.adam_lr": 0.004,
    "optimizer.weight_decay": 0.3,
    "schedule": "wsd",
    "schedule.warmup": 20,
    "schedule.decay": 0.6,
    "dtype": "bfloat16",
}
SCORE_AT = [660]  # and at the end; earlier the rate is still too high
COMPILED: bool | None = None  # whether our program is compiled; None leaves it to the engine
# Ours for the best loss within nanoGPT's budget.
BEST_RECIPE: dict[str, Any] = RECIPE | {
    "model.d_model": 256,
    "model.n_head": 8,
    "model.dropout": 0.3,
    "batch_size": 64,
    "steps": 4000,
    "optimizer.lr": 0.03,
    "optimizer.weight_decay": 0.6,
}
BEST_SCORE_AT = [3600, 3800]


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure and report; returns what was printed."""
    parser = common.parser(__doc__, repeats=3)
    parser.add_argument("--target", type=float, default=TARGET, help="nats (default: %(default)s)")
    parser.add_argument("--best", action="store_true", help="the best loss within nanoGPT's FLOPs")
    parser.add_argument("--text", choices=texts.NAMES, default="tiny_shakespeare")
    options = parser.parse_args(arguments)
    device = common.settle(options)
    if options.quick:
        options.target = 100.0
    recipe, score_at = (BEST_RECIPE, BEST_SCORE_AT) if options.best else (RECIPE, SCORE_AT)
    recipe = ours.QUICK if options.quick else recipe
    target = 0.0 if options.best else options.target  # which nothing reaches: trains to the end
    with texts.cut_folder(options.text, quick=options.quick) as folder:
        asked = ["--text", str(folder), "--target", str(target), "--device", str(device)]
        ours_asked = [*asked, "--recipe", json.dumps(recipe), "--score-at", json.dumps(score_at)]
        if COMPILED is not None:
            ours_asked.append("--compiled" if COMPILED else "--no-compiled")
        plain_asked = [*asked, "--patience", str(PATIENCE)]
        plain_asked += ["--quick", "--eager"] if options.quick else []
        settings = {"recipe": recipe, "target": target, "text": options.text, "quick": options.quick}
        settings |= _cost(recipe, folder)
        if options.best and settings["flops"] > NANOGPT_FLOPS:
            raise ValueError(
                f"the recipe costs {settings['flops']:.3g} training FLOPs; --best allows {NANOGPT_FLOPS:g}"
            )
        attempts: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
        for seed in range(options.repeats):
            sides = [("benchmarks.lmbench_recipe", ours_asked), ("benchmarks.nanogpt_loop", plain_asked)]
            for side in (0, 1) if seed % 2 == 0 else (1, 0):
                module, words = sides[side]
                attempts[side].append(launch(module, [*words, "--seed", str(seed)]))
    return [_report(options, attempts, device=common.named(device), settings=settings)]


def launch(module: str, arguments: list[str]) -> dict[str, Any]:
    """Run a side with empty compile caches; its last line, with the wall seconds until its result stood.

    Raises:
        subprocess.CalledProcessError: the process failed.
    """
    command = [sys.executable, "-m", module, *arguments]
    with tempfile.TemporaryDirectory() as cache:
        names = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "XDG_CACHE_HOME")
        environment = os.environ | {name: f"{cache}/{name}" for name in names}
        start, walls = time.perf_counter(), {}
        root = Path(__file__).resolve().parents[1]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=environment) as child:
            for line in child.stdout:
                if line.startswith("{"):
                    said = json.loads(line)
                    walls.setdefault(said["step"], time.perf_counter() - start)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return said | {"wall": walls[said["step"]]}


def _cost(recipe: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Training FLOPs (matrix products of the model) and parameters of our recipe."""
    run = ours.recipe_run(recipe, texts.task(folder), seed=0)
    flops = run.steps * train_flops(run.model, readout="all", sequences=run.batch_size)
    return {"flops": flops, "seq_len": run.model.seq_len, "baseline_seq_len": plain.NANOGPT_GPU.seq_len}


def _report(
    options: argparse.Namespace,
    attempts: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    *,
    device: str,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Refuses a time that ours did not reach; one that nanoGPT did not reach counts to its best score."""
    missed = [a for a in attempts[0] if not a["reached"]]
    if missed and not options.best:
        raise ValueError(
            f"the recipe did not reach {options.target} nats in {len(missed)} of {len(attempts[0])} runs; "
            f"its best was {missed[0]['nll']:.4f} at step {missed[0]['step']} after {missed[0]['wall']:.1f} s"
        )
    key, unit = ("nll", "nats") if options.best else ("wall", "s")
    each = {
        f"{side}_{name}": [attempt[name] for attempt in made]
        for side, made in zip(("ours", "baseline"), attempts, strict=True)
        for name in ("wall", "nll", "step", "first_seconds", "seconds", "reached")
    }
    return common.report(
        name="best_within_budget" if options.best else "time_to_quality_gpu",
        device=device,
        ours=[attempt[key] for attempt in attempts[0]],
        baseline=[attempt[key] for attempt in attempts[1]],
        unit=unit,
        better="lower",
        out=options.out,
        ours_is="lmbench, the recipe in settings",
        baseline_is="nanoGPT's recipe, compiled; where it missed the target, until its best score",
        **each,
        settings=settings,
    )


if __name__ == "__main__":
    main()
