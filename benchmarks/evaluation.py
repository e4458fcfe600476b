"""Scoring a whole split: lmbench's sliding window against one window for every target.

The naive way gives every target a full context of its own, T times the work of a plain pass.
lmbench slides the window by T/2, so that every target has T/2 to T - 1 tokens before it. The
model is the study's transformer after a short training. Two checks stand beside the speed: a
naive loop over the same windows gives the same loss, and the price of the shorter context is
told (`gap_to_full_context`, in nats).
"""

import argparse
import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import common, ours, plain, texts
from lmbench.config import Config, make
from lmbench.measure.score import evaluate
from lmbench.models.base import LanguageModel
from lmbench.tasks.base import View, load_task

BATCH = 64  # windows in one call of the naive way
QUICK = {"seq_len": 16, "d_model": 16, "d_ff": 32, "n_layer": 1}


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure and report; returns what was printed."""
    parser = common.parser(__doc__, repeats=3)
    parser.add_argument("--train-steps", type=int, default=200, help="before scoring (default: %(default)s)")
    parser.add_argument(
        "--targets",
        type=int,
        help="of the naive way (default: all on a GPU, else 8192); its rate is constant",
    )
    parser.add_argument("--text", choices=texts.NAMES, default="tiny_shakespeare")
    options = parser.parse_args(arguments)
    device = common.settle(options)
    shape = dataclasses.replace(plain.STUDY, **(QUICK if options.quick else {}))
    with texts.cut_folder(options.text, quick=options.quick) as folder:
        task = texts.task(folder)
        model, module = _trained(
            shape, task, steps=5 if options.quick else options.train_steps, device=device
        )
        return [_measure(model, module, task, options, device=device)]


def one_window_per_target(model: plain.GPT, ids_N: Tensor, *, first: int, count: int) -> Tensor:
    """(count,) losses of the targets `first`, `first` + 1, ..., each after the T tokens before it."""
    T, losses = model.shape.seq_len, []
    for at in range(first, first + count, BATCH):
        rows = min(BATCH, first + count - at)
        tokens_BT = ids_N[at - T : at + rows - 1].unfold(0, T, 1)
        logits_BV = model(tokens_BT)[:, -1]
        losses.append(F.cross_entropy(logits_BV, ids_N[at : at + rows], reduction="none"))
    return torch.cat(losses)


def same_windows(model: plain.GPT, ids_N: Tensor, *, stride: int) -> Tensor:
    """(N - 1,) losses by sliding window, one window at a time: only the targets not scored before."""
    T, N, scored, losses = model.shape.seq_len, len(ids_N), 1, []
    start = 0
    while scored < N:
        window_T = ids_N[start : min(start + T + 1, N)]
        logits_TV = model(window_T[None, :-1])[0]
        fresh = start + len(window_T) - scored
        losses.append(F.cross_entropy(logits_TV[-fresh:], window_T[-fresh:], reduction="none"))
        scored += fresh
        start += stride
    return torch.cat(losses)


def _trained(
    shape: plain.Shape, task: Config, *, steps: int, device: torch.device
) -> tuple[plain.GPT, LanguageModel]:
    """The study's transformer after a short plain training, and the same weights as a model of lmbench."""
    torch.manual_seed(0)
    module = ours.model_like(shape).build().to(device)
    model = ours.plain_like(shape, module).to(device)
    recipe = plain.Recipe(steps=steps, batch_size=16, warmup=min(20, steps // 2))
    plain.loop_of(model, ours.ids(task, "train", device), recipe, seed=0, bf16=False).advance(steps)
    with torch.no_grad():
        for target, source in zip(module.parameters(), model.parameters(), strict=True):
            target.copy_(source)
    return model.eval(), module


@torch.no_grad()
def _measure(
    model: plain.GPT,
    module: LanguageModel,
    task: Config,
    options: argparse.Namespace,
    *,
    device: torch.device,
) -> dict[str, Any]:
    data, ids_N, T = load_task(task), ours.ids(task, "valid", device), model.shape.seq_len
    view, protocol = View(seq_len=T, is_window=False, device=device), make("protocol", "dense")
    everything = len(ids_N) - T  # targets with T tokens before them
    asked = options.targets or (everything if device.type == "cuda" else 8192)
    count = 200 if options.quick else min(asked, everything)
    kept: dict[str, Any] = {}

    def sliding() -> None:
        kept["ours"] = evaluate(module, data, split="valid", protocol=protocol, view=view)

    def naive() -> None:
        kept["full"] = one_window_per_target(model, ids_N, first=T, count=count)

    common.seconds(sliding, device=device)
    one_window_per_target(model, ids_N, first=T, count=min(count, 4 * BATCH))
    measured = common.paired(
        lambda: (len(ids_N) - 1) / common.seconds(sliding, device=device) / 1e3,
        lambda: count / common.seconds(naive, device=device) / 1e3,
        repeats=options.repeats,
    )
    same_N = same_windows(model, ids_N, stride=T // 2).double()
    nll = kept["ours"].metrics["nll"][0]
    return common.report(
        name="evaluation",
        device=common.named(device),
        ours=measured[0],
        baseline=measured[1],
        unit="k targets/s",
        better="higher",
        out=options.out,
        ours_is="lmbench, sliding window, stride T/2",
        baseline_is=f"one window per target, {BATCH} windows at a time",
        nll=nll,
        difference_to_naive=abs(nll - float(same_N.mean())),
        gap_to_full_context=float(same_N[T - 1 : T - 1 + count].mean() - kept["full"].double().mean()),
        targets=len(ids_N) - 1,
        baseline_targets=count,
        settings={"seq_len": T, "stride": T // 2, "text": options.text, "quick": options.quick},
    )


if __name__ == "__main__":
    main()
