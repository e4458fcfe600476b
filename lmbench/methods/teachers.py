"""Whether a teacher can be asked about the batches of a student, and what asking costs.

A teacher is a run, whose weights the store has or will have, or a model that brings its own.
It must know the same tokens, see as much of the text as the student does, have learned the
positions that it is asked about, and not have seen the text that the student is scored on.
What the token ids of a model from a folder stand for is not known; they are taken as the task's.
"""

from collections.abc import Sequence

from lmbench.config import Config
from lmbench.data.splits import batch_sizes
from lmbench.methods.teacher_cache import windows
from lmbench.models.base import ModelConfig
from lmbench.run import Run
from lmbench.tasks.base import load_task
from lmbench.tasks.text_data import TextData


def model_of(teacher: Config) -> ModelConfig:
    """The architecture of a teacher."""
    return teacher.model if isinstance(teacher, Run) else teacher


def check_teacher(teacher: Config, run: Config) -> None:
    """Refuse a teacher that cannot be asked about the batches of a run.

    Raises:
        ValueError: one without weights, with another vocabulary, a shorter context, or unfit for the
            positions that are learned.
    """
    model, student = model_of(teacher), run.model
    who = f"teacher {model.name!r}"
    if not isinstance(teacher, Run) and not model.to_dict().get("pretrained", False):
        raise ValueError(
            f"{who} brings no weights; accepted: a run, or a model of a folder with pretrained = true"
        )
    if model.vocab_size != student.vocab_size:
        raise ValueError(f"{who} has {model.vocab_size} token ids, the student {student.vocab_size}")
    if model.seq_len < student.seq_len:
        raise ValueError(
            f"{who} has a context of seq_len = {model.seq_len}; the student's windows have {student.seq_len} "
            "tokens"
        )
    if model.is_window and (not student.is_window or model.seq_len != student.seq_len):
        raise ValueError(
            f"{who} is a window model, which needs a student that is one too, of seq_len = {model.seq_len}"
        )
    if isinstance(teacher, Run):
        _check_training(teacher, run, who)


def _check_training(teacher: Run, run: Config, who: str) -> None:
    """Refuse a teacher whose training was of other tokens, other positions, or the student's test text."""
    if teacher.protocol.kind == "last_token" and run.protocol.kind != "last_token":
        raise ValueError(
            f"{who} was trained with protocol 'last_token', on the last position of a window only; with "
            f"protocol {run.protocol.kind!r} the student learns from all"
        )
    if teacher.task == run.task:
        return
    own, other = load_task(run.task), load_task(teacher.task)
    if isinstance(own, TextData) or isinstance(other, TextData):
        both = isinstance(own, TextData) and isinstance(other, TextData)
        if not both or list(own.tokenizer.vocabulary) != list(other.tokenizer.vocabulary):
            raise ValueError(
                f"{who} learned {teacher.task.caption}, whose token ids stand for other text than those of "
                f"{run.task.caption}"
            )
    for split in ("valid", "test"):
        teacher.task.refuse_leak(run.task, split=split)


def check_cache(k: int, run: Config) -> None:
    """Refuse a cache where there is no text, or more tokens than there are."""
    if not isinstance(load_task(run.task), TextData):
        raise ValueError(
            f"distill.cache = {k} keeps what teachers say of a training text, which task {run.task.kind!r} "
            "has not; accepted: None"
        )
    if k > run.model.vocab_size:
        raise ValueError(
            f"distill.cache = {k} is not accepted: the vocabulary has {run.model.vocab_size} tokens"
        )


# ------------------------------------------------------------------ cost


def forward_flops(teachers: Sequence[Config], run: Config, step: int, *, cached: bool, disjoint: bool) -> int:
    """Forward FLOPs of all teachers for `step` steps of a run.

    Args:
        cached: whether they read the training text once, before the first step.
        disjoint: by windows without overlap, see `teacher_cache.windows`.
    """
    seq_len, is_last = run.model.seq_len, run.protocol.kind == "last_token"
    if cached:
        split = load_task(run.task).splits["train"]
        sequences, readout = len(windows(split, seq_len=seq_len, disjoint=disjoint)[0]), "all"
    else:
        sequences, readout = n_sequences(run, step), "last" if is_last else "all"
    models = [model_of(teacher).replace(seq_len=seq_len) for teacher in teachers]
    return sequences * sum(term.forward for model in models for term in model.terms(readout))


def n_sequences(run: Config, step: int) -> int:
    """Sequences that a run has seen after `step` steps; the last batch of an epoch may be short."""
    sizes = batch_sizes(run)
    epochs, rest = divmod(step, len(sizes))
    return epochs * sum(sizes) + sum(sizes[:rest])
