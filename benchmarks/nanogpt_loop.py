"""nanoGPT's recipe for Tiny Shakespeare as a plain script, until a validation loss is reached.

The model (6 layers, d 384, T 256, dropout 0.2, 10.65M parameters), the initial weights, the
optimizer, the schedule over 5,000 steps, bfloat16 autocast, torch.compile and the score every
250 steps are nanoGPT's (train.py, config/train_shakespeare_char.py). Easier for it than the
original: the text lies on the device, and it scores the validation split alone, once over,
instead of 200 random batches of both splits. Prints one JSON line per score.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import torch

from benchmarks import plain
from benchmarks.until import Attempt, train_until

SCORE_EVERY = 250
QUICK = {"seq_len": 16, "d_model": 16, "d_ff": 32, "n_layer": 1, "n_head": 2}


def main(arguments: list[str] | None = None) -> Attempt:
    """Train and print; returns the attempt."""
    options = _parser().parse_args(arguments)
    device = torch.device(options.device)
    train_N, valid_N = (ids.to(device) for ids in encode(options.text))
    shape, recipe, every = plain.NANOGPT_GPU, plain.NANOGPT_GPU_RECIPE, SCORE_EVERY
    if options.quick:
        shape = dataclasses.replace(shape, **QUICK)
        recipe, every = dataclasses.replace(recipe, steps=6, batch_size=4), 3
    torch.manual_seed(options.seed)
    model = plain.nanogpt_weights(plain.GPT(shape)).to(device)
    loop = plain.loop_of(model, train_N, recipe, seed=options.seed, bf16=True)
    if not options.eager:
        loop.model = torch.compile(model)  # the scores below run the module itself, in float32
    attempt = train_until(
        loop.advance,
        lambda: plain.score(model, valid_N, seq_len=shape.seq_len),
        target=options.target,
        score_at=range(every, recipe.steps + 1, every),
        device=device,
        on_score=say,
        patience=options.patience,
    )
    say(attempt, last=True)
    return attempt


def encode(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The train and valid splits of a folder as ids: places in the sorted letters (one byte each)."""
    parts = [np.frombuffer((folder / f"{split}.txt").read_bytes(), np.uint8) for split in ("train", "valid")]
    _, ids_N = np.unique(np.concatenate(parts), return_inverse=True)
    train_N, valid_N = torch.from_numpy(ids_N).split([len(part) for part in parts])
    return train_N, valid_N


def say(attempt: Attempt, *, last: bool = False) -> None:
    """One JSON line, at once: whoever launched this process stamps it with the wall time."""
    print(json.dumps(dataclasses.asdict(attempt) | {"last": last}), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--text", type=Path, required=True, help="folder with train.txt and valid.txt")
    parser.add_argument("--target", type=float, default=1.4697, help="nats (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--patience", type=int, help="give up after so many scores without a better one")
    parser.add_argument("--quick", action="store_true", help="a tiny model for six steps")
    return parser


if __name__ == "__main__":
    main()
