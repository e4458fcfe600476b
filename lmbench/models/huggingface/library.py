"""Configs and modules of Hugging Face's transformers, made here and nowhere else.

The package is loaded by the functions that need it, so that everything else runs without it.
Nothing is downloaded, and no code that a folder brings along is run.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def library() -> Any:
    """The package transformers.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise ValueError(
            "the package transformers is not installed; install it with: pip install 'lmbench[hf]'"
        ) from None
    return transformers


def new_settings(
    architecture: str, *, vocab_size: int, seq_len: int, d_model: int, n_layer: int, n_head: int, d_ff: int
) -> Any:
    """The library's config of an architecture in these sizes."""
    sizes = {"vocab_size": vocab_size, "hidden_size": d_model, "num_hidden_layers": n_layer}
    sizes |= {f"{use}_token_id": None for use in ("bos", "eos", "pad")}
    if architecture != "mamba":
        sizes |= {"num_attention_heads": n_head, "max_position_embeddings": seq_len}
    if architecture == "llama":
        sizes |= {"intermediate_size": d_ff}
    settings = library().AutoConfig.for_model(architecture, **sizes)
    if architecture == "gpt2":
        settings.n_inner = d_ff
    if architecture == "mamba":
        # The config has room for whole multiples of d_model only, its modules have not that limit.
        settings.intermediate_size = d_ff
        settings.residual_in_fp32 = False  # sums in the precision of the run, as everywhere here
    return _prepared(settings)


def folder_settings(path: str, *, vocab_size: int) -> Any:
    """The config that a folder holds, with another vocabulary where asked.

    Raises:
        ValueError: the library does not know it.
    """
    try:
        settings = library().AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"transformers cannot read the config of {path}: {_first_line(error)}") from None
    if settings.vocab_size != vocab_size:
        settings.vocab_size = vocab_size
    return _prepared(settings)


def _prepared(settings: Any) -> Any:
    """Without dropout, and without ids of special tokens, which are the tokenizer's business here."""
    for name, value in settings.to_dict().items():
        is_share = isinstance(value, float) and 0 < value < 1
        if is_share and ("dropout" in name or name.endswith(("pdrop", "drop"))):
            setattr(settings, name, 0.0)
    # A padding id would make some modules look at the data, and keep one row of the table at 0.
    settings.pad_token_id = None
    return settings


def new_body(settings: Any, *, path: str) -> nn.Module:
    """The library's causal language model in float32.

    Args:
        path: whose weights it starts from; "" draws new ones from torch's global generator.

    Raises:
        ValueError: an architecture that is no causal language model, or weights that do not fill it.
    """
    model, how = library().AutoModelForCausalLM, {"dtype": torch.float32, "trust_remote_code": False}
    # Spelled out in plain products, which a stack of replicas and torch's counter can see.
    how["attn_implementation"] = "eager"
    try:
        # Counting builds on the meta device, where there are no weights to be read into.
        if not path or torch.get_default_device().type == "meta":
            return model.from_config(settings, **how)
        how |= {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
        with without_bars():
            body, found = model.from_pretrained(path, config=settings, **how)
    except (OSError, ValueError) as error:
        where = path or f"a model of type {settings.model_type!r}"
        raise ValueError(f"transformers cannot build {where}: {_first_line(error)}") from None
    lacking = sorted(found["missing_keys"])
    if lacking:
        raise ValueError(
            f"the weights in {path} lack {len(lacking)} tensors of the model, first {lacking[0]}"
        )
    return body


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """The library draws no progress bars inside."""
    bars = library().utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
