"""`lmbench generate`: text from the weights of a finished run."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from lmbench.cli import show
from lmbench.cli.models import Device
from lmbench.cli.runs import open_store, whole_digest

if TYPE_CHECKING:
    from lmbench.data.tokenizer import Tokenizer
    from lmbench.run import Run


def add_to(app: typer.Typer) -> None:
    """Register the command of this module."""
    app.command()(generate)


def generate(
    digest: Annotated[str, typer.Argument(help="A finished run; enough of the start of its digest.")],
    prompt: Annotated[str, typer.Option(help="Text to go on from.", show_default="a line break")] = "\n",
    tokens: Annotated[int, typer.Option(help="New tokens.")] = 200,
    temperature: Annotated[float, typer.Option(help="Divides the logits; 0 is always the likeliest.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Choose among the k likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Choose among the likeliest that together have this probability.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    samples: Annotated[int, typer.Option(help="Texts, each drawn by itself.")] = 1,
    device: Device = None,
    json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Go on with a text by a trained model.

    A text longer than the model's context is read on from its last half context.
    """
    import torch

    from lmbench.measure.generate import check_sampling
    from lmbench.measure.generate import generate as sample
    from lmbench.measure.late import LateProgress
    from lmbench.tasks.base import load_task
    from lmbench.training.execute import resolve_device
    from lmbench.training.rescore import load_run

    how = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    check_sampling(**how)
    for name, value in (("tokens", tokens), ("samples", samples)):
        if value < 1:
            raise ValueError(f"{name} = {value} is not accepted: it must be at least 1")
    store = open_store()
    digest = whole_digest(store, digest)
    kind = store.record(digest)["run"]["kind"]
    if kind != "run":
        raise ValueError(f"{digest} is a record of kind {kind!r}, not a training run: it has no weights")
    where = resolve_device(device)
    loaded = load_run(digest, store=store, device=where)
    tokenizer = _tokenizer(loaded.run, load_task(loaded.run.task))
    ids = prompt_ids(prompt, tokenizer, digest=digest)
    prompt_BT = torch.tensor(ids, device=where).expand(samples, -1)
    begun = time.perf_counter()
    with LateProgress(tokens, "tokens") as progress:
        how |= {"seq_len": loaded.run.model.seq_len, "watch": progress.update}
        new_BN = sample(loaded.model, prompt_BT, tokens, **how).cpu()
    seconds = time.perf_counter() - begun
    texts = [prompt + tokenizer.decode(row.numpy()) for row in new_BN]
    rate = samples * tokens / seconds
    if json:
        show.write_json({"run": digest, "prompt": prompt, "texts": texts, "tokens_per_second": rate})
        return
    for i, text in enumerate(texts):
        show.line(text if samples == 1 else f"--- sample {i + 1}\n{text}")
    show.line(f"\n{loaded.run.model.name} {digest}: {samples * tokens:,} tokens, {rate:,.0f} a second")


def _tokenizer(run: "Run", data: object) -> "Tokenizer":
    """What turns text into the ids that the run's model knows."""
    if run.task.kind != "text":
        raise ValueError(f"run {run.digest} learned task {run.task.kind!r}, which is not text to go on with")
    return data.tokenizer


def prompt_ids(prompt: str, tokenizer: "Tokenizer", *, digest: str) -> list[int]:
    """The prompt's tokens.

    Raises:
        ValueError: an empty prompt, or one with a character that the run's vocabulary lacks.
    """
    if not prompt:
        raise ValueError("--prompt is empty: it must hold at least one token")
    known = {str(token) for token in tokenizer.vocabulary if not isinstance(token, bytes)}
    is_of_characters = bool(known) and all(len(token) == 1 for token in known)
    missing = [letter for letter in prompt if is_of_characters and letter not in known]
    if missing:
        raise ValueError(
            f"--prompt holds {missing[0]!r} (U+{ord(missing[0]):04X}), which is not among the {len(known)} "
            f"characters that run {digest} knows"
        )
    ids = tokenizer.encode(prompt).ids.tolist()
    if not ids:
        raise ValueError(f"--prompt {prompt!r} holds no token: the tokenizer of run {digest} drops all of it")
    return ids
