"""Training tokens per second on the CPU: lmbench in bfloat16 against a plain eager float32 loop.

The model is nanoGPT's CPU configuration (4 layers, 4 heads, d 128, T 64, batch 12, dropout 0,
0.80M parameters). Both sides start from the same weights and see the same batches under the
same optimizer and schedule, so the losses after equal tokens differ by arithmetic alone and
are reported beside the speed.
"""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import common, ours, plain, texts
from lmbench.config import make
from lmbench.data.splits import Draws, window_starts
from lmbench.models.base import seeded
from lmbench.run import Run
from lmbench.tasks.base import load_task

WARM_UP = 5  # steps of both sides before they are timed
QUICK = {"seq_len": 16, "d_model": 16, "d_ff": 32, "n_layer": 1}


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure and report; returns what was printed."""
    parser = common.parser(__doc__, repeats=5)
    parser.add_argument("--steps", type=int, default=200, help="steps per timing (default: %(default)s)")
    parser.add_argument("--dtype", default="bfloat16", help="of our side (default: %(default)s)")
    parser.add_argument("--text", choices=texts.NAMES, default="tiny_shakespeare")
    options = parser.parse_args(arguments)
    options.device = options.device or "cpu"
    device = common.settle(options)
    steps = 5 if options.quick else options.steps
    with texts.cut_folder(options.text, quick=options.quick) as folder:
        run = nanogpt_run(
            texts.task(folder),
            steps=steps * options.repeats + WARM_UP,
            dtype=options.dtype,
            quick=options.quick,
        )
        return [_measure(run, options, steps=steps, device=device)]


def nanogpt_run(task: Any, *, steps: int, dtype: str, quick: bool) -> Run:
    """nanoGPT's CPU recipe as a run; its schedule spans `steps`."""
    recipe = plain.NANOGPT_CPU_RECIPE
    shape = shape_of(quick=quick)
    return Run(
        model=ours.model_like(shape, init="gpt2"),
        task=task,
        protocol=make("protocol", "dense", stride=shape.seq_len),
        steps=steps,
        batch_size=recipe.batch_size,
        optimizer=make("optimizer", "adamw", lr=recipe.lr),
        schedule=make("schedule", "cosine", warmup=min(recipe.warmup, steps // 2)),
        dtype=dtype,
        test=False,
    )


def shape_of(*, quick: bool) -> plain.Shape:
    """nanoGPT's CPU configuration, or a tiny one."""
    return dataclasses.replace(plain.NANOGPT_CPU, **(QUICK if quick else {}))


def plain_loop(run: Run, shape: plain.Shape, *, device: torch.device) -> plain.Loop:
    """The baseline: weights, batches and learning rates of `run`, in float32."""
    model = ours.plain_like(shape, seeded(run.model, init_seed=run.init_seed)).to(device)
    recipe = plain.Recipe(steps=run.steps, batch_size=run.batch_size, lr=run.optimizer.lr)
    factors = run.schedule.factors(run.steps)
    return plain.Loop(
        model,
        optimizer=plain.adamw(model, recipe),
        batch_at=_batches(run, device),
        lr_at=lambda step: run.optimizer.lr * factors[step],
        clip=recipe.clip,
        bf16=False,
    )


def _batches(run: Run, device: torch.device) -> Callable[[int], tuple[Tensor, Tensor]]:
    """The batches that lmbench draws for a run, cut out of the text as a plain loop does it."""
    split, T = load_task(run.task).splits["train"], run.model.seq_len
    starts_S = window_starts(split, T)
    draws = Draws(run.data_seed, batch_size=run.batch_size, n=len(starts_S))
    starts_SB = torch.from_numpy(starts_S[draws.block(0, run.steps)]).to(device)
    ids_N = ours.ids(run.task, "train", device)
    offset_T = torch.arange(T + 1, device=device)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        window_BT = ids_N[starts_SB[step][:, None] + offset_T]
        return window_BT[:, :-1], window_BT[:, 1:]

    return batch


def _measure(run: Run, options: argparse.Namespace, *, steps: int, device: torch.device) -> dict[str, Any]:
    loop = plain_loop(run, shape_of(quick=options.quick), device=device)
    program = ours.program([run], device=device)
    program.advance(WARM_UP)
    loop.advance(WARM_UP)
    tokens = steps * run.batch_size * run.model.seq_len / 1e3
    measured = common.paired(
        lambda: tokens / common.seconds(lambda: program.advance(steps), device=device),
        lambda: tokens / common.seconds(lambda: loop.advance(steps), device=device),
        repeats=options.repeats,
    )
    ids_N = ours.ids(run.task, "valid", device)
    nll = {
        "ours_nll": ours.valid_nll(program),
        "baseline_nll": plain.score(loop.model, ids_N, seq_len=run.model.seq_len),
    }
    return common.report(
        name="cpu_training",
        device=common.named(device),
        ours=measured[0],
        baseline=measured[1],
        unit="ktok/s",
        better="higher",
        out=options.out,
        ours_is=f"lmbench, {run.dtype}",
        baseline_is="plain eager loop, float32",
        **nll,
        nll_difference=nll["ours_nll"] - nll["baseline_nll"],
        tokens_each=run.steps * run.batch_size * run.model.seq_len,
        settings={
            "steps_per_repeat": steps,
            "text": options.text,
            "quick": options.quick,
            "model": run.model.canonical(),
            "batch_size": run.batch_size,
        },
    )


if __name__ == "__main__":
    main()
