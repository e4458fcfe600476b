"""Bounds of packed runs: what the size of a run's file promises, beside a held-out bound.

The price is the packed file, and the empirical risk is that of the model read back from it, on the
data that the run learned from; both losses of it are a record of the store, so bounds are computed
anywhere. A text gives the token form, on all targets of its train split: a mean risk given the contexts of
that text. A synthetic task gives the document form: the sample is the examples that the run drew, the
risk that of a fresh one from the same generator, and the held-out bound is of fresh ones as well. A run
may have used less of the sample, or more data beside it: an Occam bound holds for every file at once.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

import pandas as pd
import torch

from lmbench import folders
from lmbench.asked import config_of, read_or_make
from lmbench.errors import unknown
from lmbench.measure.artifact import unpack
from lmbench.measure.bound_losses import Documents, Smoothed, Subsample, Tokens, ZeroOne
from lmbench.measure.bound_samples import FRESH_DOCUMENTS, TRAIN, risks, samples
from lmbench.measure.bounds import beside, held_out, occam
from lmbench.measure.bounds_seed import seed_literal
from lmbench.methods.equipment import equipped
from lmbench.probes.scores import Artifact, FileRisk
from lmbench.records import Records
from lmbench.run import Run
from lmbench.store import Store
from lmbench.tasks.base import TaskData, View, load_task
from lmbench.tasks.synthetic_data import SyntheticData
from lmbench.tasks.text_data import TextData
from lmbench.training.artifacts import FILE
from lmbench.training.environment import environment
from lmbench.training.execute import resolve_device
from lmbench.training.hashes import weights_hash
from lmbench.training.measured import file_rows

LossName = Literal["smoothed", "zero_one"]
# Of delta, for scoring a part of the sample. The file's price dwarfs ln(1 / delta), the draws' does not.
SUBSAMPLE_SHARE = 0.9
UNCODED_BITS = {"float32": 32, "float16": 16}


def run_bounds(
    digests: Sequence[str],
    *,
    store: Records,
    artifacts: pd.DataFrame,
    loss: LossName = "smoothed",
    alpha: float = 0.01,
    delta: float = 0.05,
    searched: Sequence[int] = (),
    draws: int | None = 2048,
    seed: int = 0,
    device: str | None = None,
) -> pd.DataFrame:
    """One row for each packed file of each run, for `analysis.bounds_table`.

    Columns: arm (the label in `artifacts`), init_seed, run, record (of the file), loss, those of
    `measure.bounds.beside`, draws (0 where all of the sample is scored), seed_literal, seed_corrected (the
    published bound as it is written and corrected) and seed_valid (False), and for
    `analysis.bounds_table.selection_regret` valid and test (risks on these splits). Risks and bounds
    are in the unit of the loss.

    Args:
        artifacts: from `training.artifacts.artifacts`; its labels name the arms.
        loss: "smoothed" is the cross entropy of (1 - alpha) p + alpha / V, "zero_one" the error rate.
        delta: of the whole Occam bound, the scoring of a part included; and of the held-out bound.
        searched: sizes of the grids that were tried on the same data, such as (3,) for three of alpha.
        draws: windows of a text, or documents, of the training sample that are scored; None is all.
        seed: of these draws.

    Raises:
        ValueError: an unknown loss, a number out of its range, a run that is not in `artifacts`, a task
            that is neither a text nor drawn by a generator, a file whose predictions are not finite, or
            a read-only store that lacks a file's risk.
    """
    if loss not in get_args(LossName):
        raise ValueError(unknown("loss", loss, get_args(LossName)))
    if not 0 < delta < 1:
        raise ValueError(f"delta = {delta} is not accepted: it lies between 0 and 1, as 0.05")
    lacking = [digest for digest in digests if digest not in set(artifacts["run"])]
    if lacking:
        raise ValueError(f"run {lacking[0]} is not among the packed runs; pass artifacts([...]) that hold it")
    settings, rows = {"loss": loss, "delta": delta, "searched": tuple(searched)}, []
    for digest in dict.fromkeys(digests):
        run = config_of(digest, store=store)
        for packed in artifacts[artifacts["run"] == digest].to_dict("records"):
            asked = FileRisk(artifact=packed["record"], alpha=alpha, draws=draws, seed=seed)
            found = _risks(asked, run, digest, store=store, device=device)
            packed_as = config_of(asked.artifact, store=store)
            rows.append(_row(packed, found, run=run, packed_as=packed_as, asked=asked, **settings))
    return pd.DataFrame(rows)


def _row(
    packed: dict[str, Any],
    found: pd.DataFrame,
    *,
    run: Run,
    packed_as: Artifact,
    asked: FileRisk,
    loss: LossName,
    delta: float,
    searched: tuple[int, ...],
) -> dict[str, Any]:
    """The bounds of one file, from its record of risks."""
    risk = found[found["metric"] == loss].set_index("split")
    draws = int(found.loc[found["metric"] == "draws", "value"].iloc[0])
    made = _losses(run.model.vocab_size, asked.alpha)[loss]
    by_document = FRESH_DOCUMENTS in risk.index
    sample, kept = (_sample(risk, split) for split in (TRAIN, FRESH_DOCUMENTS if by_document else "test"))
    part = Subsample(n=draws, delta=SUBSAMPLE_SHARE * delta) if draws else None
    occams = occam(
        risk.at[TRAIN, "value"],
        n_bytes=int(packed["bytes"]),
        sample=sample,
        loss=made,
        delta=delta - (part.delta if part else 0.0),
        searched=searched,
        subsample=part,
    )
    held = held_out(
        risk.at[FRESH_DOCUMENTS if by_document else "test", "value"], sample=kept, loss=made, delta=delta
    )
    # The sketch divides by the sequences of a data set and knows no tokens.
    n = sample.m if by_document else max(1, sample.m // run.model.seq_len)
    sketch = seed_literal(
        risk.at[TRAIN, "value"], parameters=_bits(run, packed_as), n=n, loss=made, delta=delta
    )
    return {
        "arm": packed["label"], "init_seed": packed["init_seed"], "run": packed["run"],
        "record": packed["record"], "loss": loss, **beside(occams, held), "draws": draws,
        "seed_literal": sketch.value, "seed_corrected": sketch.corrected, "seed_valid": sketch.valid,
        "valid": risk.at["valid", "value"], "test": risk.at["test", "value"],
    }  # fmt: skip


def _sample(risk: pd.DataFrame, split: str) -> Documents | Tokens:
    """What stands behind a risk; `n` of its row is the size of the whole sample."""
    m = int(risk.at[split, "n"])
    return Documents(m=m, drawn="generator") if FRESH_DOCUMENTS in risk.index else Tokens(m=m)


def _losses(vocab_size: int, alpha: float) -> dict[str, Smoothed | ZeroOne]:
    return {
        "smoothed": Smoothed(vocab_size=vocab_size, alpha=alpha),
        "zero_one": ZeroOne(vocab_size=vocab_size),
    }


def _bits(run: Run, packed_as: Artifact) -> dict[float, int]:
    """Bits to the number of parameters that the file writes in so many."""
    with torch.device("meta"):
        sizes = {name: value.numel() for name, value in run.model.build().named_parameters()}
    coded = [method.coded(run.model) for method in (*run.methods, *packed_as.methods)]
    bits = {name: one.bits for part in coded for name, one in part.items()}
    counts: dict[float, int] = {}
    for name, size in sizes.items():
        width = bits.get(name, UNCODED_BITS[packed_as.other])
        counts[width] = counts.get(width, 0) + size
    return counts


# ------------------------------------------------------------------ risks as records


def _risks(asked: FileRisk, run: Run, digest: str, *, store: Records, device: str | None) -> pd.DataFrame:
    """Rows of the record, made now if the store lacks it."""
    what = f"the risk of the packed form of run {digest} with "
    what += f"alpha = {asked.alpha:g} and draws = {asked.draws}"
    return read_or_make(asked, what=what, store=store, make=partial(_score_into, run=run, device=device))


def _score_into(asked: FileRisk, store: Store, *, run: Run, device: str | None) -> None:
    """Score what is read back from a file, and file its risks under the record's lock."""
    data, where = _covered(run), resolve_device(device)
    found = unpack(folders.intact(store.folder(asked.artifact), FILE).read_bytes())
    model = equipped(found.model, found.weights, methods=found.methods).to(where)

    def rows() -> list[dict[str, Any]]:
        made, losses = [], _losses(run.model.vocab_size, asked.alpha)
        fixed = {"evaluation": asked.digest, "task": run.task.kind, "step": run.steps}
        view = View(seq_len=run.model.seq_len, is_window=run.model.is_window, device=where)
        for split, scored in samples(data, run=run, view=view, draws=asked.draws, seed=asked.seed).items():
            known = fixed | {"split": split, "n": scored.sample.m}
            values = risks(model, scored, losses=losses) | ({"draws": scored.draws} if split == TRAIN else {})
            made += [known | {"metric": name, "value": value} for name, value in values.items()]
        return made

    env = environment(where) | {"hashes": {"weights": weights_hash(found.weights)}}
    file_rows(asked, rows, label=run.model.name, store=store, env=env)


def _covered(run: Run) -> TextData | SyntheticData:
    """The data of a run whose sample has a form."""
    data: TaskData = load_task(run.task)
    if not isinstance(data, TextData | SyntheticData):
        raise ValueError(
            f"task {run.task.kind!r} is not accepted: a bound needs a text (token form) or a synthetic task, "
            "whose examples are drawn independently (document form)"
        )
    return data
