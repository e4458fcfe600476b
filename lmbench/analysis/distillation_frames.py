"""Frames of the distillation study: files beside their runs, cells under a second name, all evidence.

A run has a file as it was trained, and may have more of them with its weights rounded after training. Each
of those is an arm of its own, with the scores of its file. Some arms are cells of the design as well
as points of a sweep (P is a density, KD a temperature); they are trained once and stand under both names.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from lmbench.analysis.bounds_table import selection_regret
from lmbench.analysis.checks import require
from lmbench.analysis.compression import joint_table
from lmbench.analysis.distillation_arms import JOINT, TEACHER
from lmbench.analysis.distillation_evidence import UNIT, Evidence, first_of
from lmbench.analysis.intervals import Estimate
from lmbench.errors import unknown

SCORES = ("nll", "perplexity", "accuracy", "bits_per_byte")
COUNTS = ("macs", "nonzero_macs")
AGREEMENT = ("kl_forward", "kl_reverse", "top1_agreement", "total_variation", "margin_bound", "student_ece")


def rounded_name(bits: float, how: str) -> str:
    """The arm of the dense student with weights rounded after training: `bits=4 ptq mse`, `bits=4 gptq`."""
    return f"bits={bits:g} {how if how == 'gptq' else f'ptq {how}'}"


def file_table(
    trained: pd.DataFrame, *, runs: pd.DataFrame, rounded: Mapping[str, pd.DataFrame] | None = None
) -> pd.DataFrame:
    """One row for each file: its arm as label, is_rounded, and its loss beside that of the run's own weights.

    Args:
        trained: from `training.artifacts.artifacts`, the files of all runs as they were trained.
        runs: run, label and bits_per_byte.
        rounded: more files of some of the runs, by the name of the arm that they are.

    Returns:
        The columns of `artifacts`, with float_bits_per_byte (of the run), packed_bits_per_byte (of the file).

    Raises:
        ValueError: a file of a run that is not there.
    """
    for column in ("run", "label", "bits_per_byte"):
        require(runs, column)
    parts = [trained.assign(arm=None), *(part.assign(arm=name) for name, part in (rounded or {}).items())]
    files = pd.concat(parts, ignore_index=True)
    known = runs.set_index("run")
    for digest in files["run"]:
        if digest not in known.index:
            raise ValueError(unknown("run of a file", digest, known.index))
    is_rounded = files["arm"].notna()
    label = files["arm"].where(is_rounded, files["run"].map(known["label"]))
    return files.drop(columns="arm").assign(
        label=label,
        is_rounded=is_rounded,
        float_bits_per_byte=files["run"].map(known["bits_per_byte"]),
        packed_bits_per_byte=files["bits_per_byte"],
    )


def with_files(runs: pd.DataFrame, files: pd.DataFrame) -> pd.DataFrame:
    """The runs with multiply-adds as counted in their files, and a row more for each rounded file.

    A rounded file's row is that of its run with the scores of the file.

    Args:
        runs: one row a run, from `table.final_table`, with label.
        files: from `file_table`.
    """
    own = files[~files["is_rounded"]].drop_duplicates("run").set_index("run")
    runs = runs.assign(**{name: runs["run"].map(own[name]) for name in COUNTS})
    after = files[files["is_rounded"]]
    rows = runs.set_index("run").loc[after["run"]].reset_index(drop=True)
    replaced = ["label", *(name for name in (*SCORES, *COUNTS) if name in after)]
    rows = rows.assign(run=after["record"].to_numpy(), **{name: after[name].to_numpy() for name in replaced})
    return pd.concat([runs, rows], ignore_index=True)


def also_named(frame: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """The frame, and once more the rows of some labels under a second name that no row has yet."""
    there = set(frame["label"])
    more = {old: new for old, new in names.items() if new not in there}
    return pd.concat([frame, frame[frame["label"].isin(more)].replace({"label": more})], ignore_index=True)


def second_names(*, density: float, tau: float, a: float) -> dict[str, str]:
    """What cells of the design are called in the sweeps, by the settings of the factors where they are on."""
    return {"Q+P": JOINT, "P": f"density={density:g}", "KD": f"tau={tau:g} alpha={a:g}"}


def promised_arms(labels: Iterable[str], *, timed: Iterable[str] = ()) -> dict[str, str | None]:
    """The arms that a promise of size and one of speed are read off: quantised, pruned, and little else.

    Args:
        labels: of all arms; timed: of those with times, from which the pruned one is taken if it can be.
    """
    labels, timed = list(labels), list(timed)
    pruned = ("P", "P+KD")
    return {
        "quantised": first_of(("Q", "Q+KD"), labels),
        "pruned": first_of(pruned, timed) or first_of(pruned, labels),
    }


def agreement_rows(found: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each student, from the rows of `agreements`: label, init_seed and the measures."""
    wide = found.pivot_table(index="student", columns="metric", values="value").reset_index()
    known = runs.set_index("run")
    return wide.assign(**{name: wide["student"].map(known[name]) for name in ("label", "init_seed")})


def agreement_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each arm: means over seeds of what says how near it is to its teacher."""
    shown = [name for name in AGREEMENT if name in rows]
    return rows.groupby("label", sort=False)[shown].mean().reset_index().rename(columns={"label": "arm"})


def assembled(
    runs: pd.DataFrame,
    *,
    files: pd.DataFrame,
    bounds: pd.DataFrame | None = None,
    coverage: Mapping[str, NamedTuple] | None = None,
    names: Mapping[str, str] | None = None,
    agreement: pd.DataFrame | None = None,
    speeds: pd.DataFrame | None = None,
    formulas: pd.DataFrame | None = None,
    metric: str = "bits_per_byte",
) -> Evidence:
    """All that claims are judged by.

    The one teacher stands beside every seed of its students, so that both can be paired; intervals are
    then over students of this teacher.

    Args:
        runs: from `with_files`, of students and teacher.
        files: from `file_table`.
        bounds: from `training.bounds.run_bounds`; chosen by them and by validation, arms have a regret.
        coverage: of forms of the bound, from `measure.bounds_coverage`.
        names: from `second_names`.
        agreement, speeds, formulas, metric: as in `Evidence`.

    Raises:
        ValueError: several runs of the teacher.
    """
    students, teacher = runs[runs["label"] != TEACHER], runs[runs["label"] == TEACHER]
    if len(teacher) > 1:
        raise ValueError(f"one teacher stands beside all seeds, got {len(teacher)} runs of it")
    seeds = sorted(set(students["init_seed"]))
    beside = [teacher.assign(init_seed=seed) for seed in seeds]
    if agreement is not None and "student_ece" in agreement and agreement["student_ece"].notna().all():
        students = students.assign(**_calibration(students["run"], agreement.set_index("student")))
    every = also_named(pd.concat([students, *beside], ignore_index=True), names or {})
    regret = None
    if bounds is not None and len(seeds) > 1:
        found = selection_regret(bounds, unit=bounds["unit"].iloc[0])
        regret = _share_of(found.estimate, bounds["test"].mean())
    return Evidence(
        runs=every, artifacts=also_named(files, names or {}), regret=regret,
        coverage=_coverage(coverage or {}), agreement=agreement,
        speeds=None if speeds is None else also_named(speeds, names or {}), formulas=formulas, metric=metric,
    )  # fmt: skip


def _calibration(runs: pd.Series, measured: pd.DataFrame) -> dict[str, pd.Series]:
    """Calibration error of each run and, where it was measured, its mean confidence less its accuracy."""
    found = {"ece": runs.map(measured["student_ece"])}
    if {"student_confidence", "student_accuracy"} <= set(measured):
        found["overconfidence"] = runs.map(measured["student_confidence"] - measured["student_accuracy"])
    return found


def _share_of(found: Estimate, loss: float) -> Estimate:
    return found._replace(value=found.value / loss, low=found.low / loss, high=found.high / loss)


def _coverage(found: Mapping[str, NamedTuple]) -> pd.DataFrame | None:
    return pd.DataFrame([{"form": form} | one._asdict() for form, one in found.items()]) if found else None


def level_arms(labels: Iterable[str], settings: Sequence[str] = ("bits", "density")) -> list[str]:
    """Of these settings, those that the name of some arm sets."""
    labels = list(labels)
    return [setting for setting in settings if any(f"{setting}=" in label for label in labels)]


def joint_files(runs: pd.DataFrame, files: pd.DataFrame, *, names: Mapping[str, str]) -> pd.DataFrame:
    """`compression.joint_table` of what files score, and of how large they are.

    Args:
        runs: with the joint arm under its name; files: from `file_table`; names: from `second_names`.
    """
    own = also_named(files[~files["is_rounded"]], names)
    packed = own[["label", UNIT, "bytes", "packed_bits_per_byte"]]
    return joint_table(runs.merge(packed, on=["label", UNIT]))
