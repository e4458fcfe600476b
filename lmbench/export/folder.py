"""One stored run as a folder for transformers and what builds on it.

    config.json            the model's config, and where its class is
    model.safetensors      the weights that the run reports
    generation_config.json  ids of the special token
    tokenizer.json         and tokenizer_config.json: the run's tokenizer
    modeling_lmbench.py    imports the class from this package, which must be installed

`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)` loads it, and so does
`AutoTokenizer`, which without these words asks for leave to read the config. The folder is made
beside its place under another name and moved there when it is whole.
"""

import shutil
import uuid
from pathlib import Path
from typing import Any

import torch

from lmbench.errors import unknown
from lmbench.export.tokenizer import START, check_equal, library_tokenizer
from lmbench.methods.equipment import in_force
from lmbench.models.huggingface.library import library, without_bars
from lmbench.store import Store
from lmbench.tasks.base import load_task
from lmbench.training.rescore import Loaded, load_run

FORMATS = ("hf",)
_CHECKED = 100_000  # characters of each split on which the two tokenizers are compared
_MODELING = '''"""The class of this model, from the package lmbench, which must be installed."""

from lmbench.export.modeling import LmbenchConfig, LmbenchForCausalLM
'''


def export_run(digest: str, *, store: Store, to: Path, form: str = "hf") -> Path:
    """Write a finished run as a new folder.

    Args:
        to: the folder, which must not be there yet; the one that it lies in must.
        form: of `FORMATS`.

    Returns:
        The folder.

    Raises:
        ValueError: an unknown form, a folder that exists, a run without weights, a task without a
            tokenizer, a tokenizer or model that cannot be expressed, or no transformers.
    """
    if form not in FORMATS:
        raise ValueError(unknown("format", form, FORMATS))
    if to.exists():
        raise ValueError(f"{to} is there already; name a folder that is not")
    if not to.parent.is_dir():
        raise ValueError(f"{to.parent} is not a folder, so nothing can be written into it")
    library()  # before a text is read, which can take minutes
    kind = store.record(digest)["run"]["kind"]
    if kind != "run":
        raise ValueError(f"{digest} is a record of kind {kind!r}, not a training run: it has no weights")
    loaded = load_run(digest, store=store, device=torch.device("cpu"), methods=())
    _refuse(loaded)
    tokenizer = _tokenizer(loaded)
    half = to.with_name(f".{to.name}-{uuid.uuid4().hex[:8]}")
    try:
        half.mkdir()
        _write(loaded, tokenizer, digest=digest, folder=half)
        half.rename(to)
    except BaseException:  # also Ctrl-C
        shutil.rmtree(half, ignore_errors=True)
        raise
    return to


def _refuse(loaded: Loaded) -> None:
    model = loaded.run.model
    if model.kind == "huggingface" and model.path:
        raise ValueError(
            f"this run's model needs the folder {model.path}, which an exported one could not bring along; "
            "only models that stand by themselves are exported"
        )
    held = in_force(loaded.run.methods, step=loaded.run.steps, steps=loaded.run.steps)
    if held:
        raise ValueError(
            f"this run computes with {held[0].kind!r} beside its weights (a width, or rounded activations), "
            "which such a folder has no place for; accepted: format 'packed'"
        )


def _tokenizer(loaded: Loaded) -> Any:
    """The run's tokenizer as one of the library's, compared with ours on the run's own text."""
    task = loaded.run.task
    if "tokenizer" not in type(task).model_fields:
        raise ValueError(f"task {task.kind!r} has no tokenizer, so its models have no text to be used on")
    data = load_task(task)
    made = library_tokenizer(task.tokenizer, data.tokenizer)
    check_equal(made, data.tokenizer, [data.corpus.text(split)[:_CHECKED] for split in data.corpus.splits])
    return made


def _write(loaded: Loaded, tokenizer: Any, *, digest: str, folder: Path) -> None:
    from lmbench.export.modeling import LmbenchConfig, LmbenchForCausalLM

    model = loaded.run.model
    places = {"AutoConfig": "LmbenchConfig", "AutoModelForCausalLM": "LmbenchForCausalLM"}
    config = LmbenchConfig(
        lmbench_model=model.to_dict(),
        lmbench_run=digest,
        vocab_size=model.vocab_size + 1,
        max_position_embeddings=model.seq_len,
        auto_map={auto: f"modeling_lmbench.{name}" for auto, name in places.items()},
        architectures=["LmbenchForCausalLM"],
        tie_word_embeddings=False,
        dtype="float32",
        **{f"{use}_token_id": model.vocab_size for use in ("bos", "eos", "pad")},
    )
    whole = LmbenchForCausalLM(config)
    whole.model.load_state_dict(loaded.model.state_dict())
    with without_bars():
        whole.save_pretrained(folder)
    # The library keeps weights to their owner; they may be read by whoever may read the config.
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode & 0o777)
    (folder / "modeling_lmbench.py").write_text(_MODELING, encoding="utf-8")
    special = {f"{use}_token": START for use in ("bos", "eos", "pad")}
    library().PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=model.seq_len,
        clean_up_tokenization_spaces=False,
        **special,
    ).save_pretrained(folder)
