"""A causal language model of Hugging Face's transformers as a model of the suite.

Either a folder that is on this disk (`path`: config.json and safetensors weights, or the config
alone with `pretrained = false`), or one of three architectures in sizes of one's own. Nothing is
ever downloaded, and no code that a folder brings along is run. The library's modules are used as
they are, with three exceptions that change no number: look-up table and head are held under the
names that all models here have, dropout is off, because the library draws its masks from torch's
global generator, and depthwise convolutions are computed as shifted products (see
`parts`). The package is loaded when a model is built, not before.

Legend: B batch, T position, K preceding tokens, V vocabulary.
"""

import contextlib
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from lmbench.layers.cost import Term
from lmbench.layers.embedding import check_length
from lmbench.models.base import LanguageModel, ModelConfig, Output, Readout, State
from lmbench.models.huggingface import parts
from lmbench.models.huggingface.folder import CONFIG, fingerprint, read_folder
from lmbench.models.huggingface.library import folder_settings, new_body, new_settings
from lmbench.models.huggingface.terms import CLOSED_FORMS, closed_form, counted_term

# What a folder decides by itself; these fields are for models without one.
_OWN_SIZES = ("architecture", "d_model", "n_layer", "n_head", "d_ff")


class HuggingFaceConfig(ModelConfig):
    """A folder on this disk, or an architecture of the library in the sizes given here."""

    kind: ClassVar[Literal["huggingface"]] = "huggingface"

    path: str = ""
    """Folder with a config.json; its vocabulary and context are the defaults of vocab_size and
    seq_len. "" builds `architecture` from the sizes below."""
    folder_sha256: str = ""
    """Of the folder's content, filled in by itself: a changed folder is another run."""
    pretrained: bool = True
    """Start from the folder's weights; False draws new ones by its config from init_seed. Without a
    path there are none to start from, and it is False."""
    architecture: Literal["gpt2", "llama", "mamba"] = "gpt2"
    """With the library's defaults for everything but sizes."""
    d_model: int = Field(128, ge=1)
    """Width of the residual stream; a multiple of n_head."""
    n_layer: int = Field(3, ge=1)
    """Blocks."""
    n_head: int = Field(4, ge=1)
    """Heads of attention; a mamba has none."""
    d_ff: int = Field(512, ge=1)
    """Width of the feed-forward layers; of a mamba, which has none, the inner width of its blocks
    (published: 2 d_model)."""

    @model_validator(mode="before")
    @classmethod
    def _read_folder(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        path, is_pretrained = str(data.get("path") or ""), bool(data.get("pretrained", True))
        if not path:
            return data | {"pretrained": False, "folder_sha256": ""}
        if data.get("folder_sha256"):
            return data  # a record, which must be readable where the folder is not
        found = read_folder(path)
        sizes = {"vocab_size": found.vocab_size}
        sizes |= {"seq_len": found.context} if found.context else {}
        return sizes | data | {"folder_sha256": fingerprint(path, weights=is_pretrained)}

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.path:
            self._fits_folder()
        elif self.architecture != "mamba":
            wanted = self.n_head * (2 if self.architecture == "llama" else 1)
            if self.d_model % wanted:
                what = "2 n_head, whose heads turn pairs of features," if wanted > self.n_head else "n_head"
                raise ValueError(
                    f"d_model = {self.d_model} must be a multiple of {what} for architecture = "
                    f"{self.architecture!r}, here {wanted}"
                )
        return self

    def _fits_folder(self) -> None:
        for name in _OWN_SIZES:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r} is not accepted beside path: the folder's config.json "
                    "decides it"
                )
        if not (Path(self.path) / CONFIG).is_file():
            return  # said when the model is built
        found = read_folder(self.path)
        if self.pretrained and self.vocab_size != found.vocab_size:
            raise ValueError(
                f"vocab_size = {self.vocab_size} is not that of the weights in {self.path}, "
                f"{found.vocab_size}; pretrained = false draws new weights for any vocabulary"
            )
        if found.context and self.seq_len > found.context:
            raise ValueError(
                f"seq_len = {self.seq_len} is more than the context of the model in {self.path}, "
                f"{found.context}"
            )

    def canonical(self) -> dict[str, Any]:
        """A folder counts by its name and content, not by where it lies."""
        plain = super().canonical()
        return plain | {"path": Path(self.path).name} if self.path else plain

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; another folder, or its weights, get their own fingerprint."""
        if {"path", "pretrained"} & set(changes):
            changes = {"folder_sha256": ""} | changes
        return super().replace(**changes)

    @property
    def model_type(self) -> str:
        """The library's name of the architecture."""
        return read_folder(self.path).model_type if self.path else self.architecture

    @property
    def tied_head(self) -> bool:
        """Whether the head borrows the embedding's matrix."""
        return self.settings().tie_word_embeddings

    @property
    def alone(self) -> str:
        """See `ModelConfig.alone`."""
        if self.model_type in CLOSED_FORMS:
            return ""
        return f"the library's modules of {self.model_type!r} may branch on data, which a stack cannot"

    def settings(self) -> Any:
        """The library's own config object.

        Raises:
            ValueError: transformers is not installed, or the folder is not what it was.
        """
        if not self.path:
            sizes = {"d_model": self.d_model, "n_layer": self.n_layer, "n_head": self.n_head}
            sizes |= {"d_ff": self.d_ff, "seq_len": self.seq_len, "vocab_size": self.vocab_size}
            return new_settings(self.architecture, **sizes)
        if fingerprint(self.path, weights=self.pretrained) != self.folder_sha256:
            raise ValueError(f"the content of {self.path} has changed since this model was defined")
        return folder_settings(self.path, vocab_size=self.vocab_size)

    def build(self) -> "HuggingFaceModel":
        """The library's module, with the folder's weights or freshly drawn ones."""
        return HuggingFaceModel(self)

    def terms(self, readout: Readout) -> tuple[Term, ...]:
        """A closed form for gpt2, llama and mamba; of others what torch counts on the meta device."""
        settings = self.settings()
        if settings.model_type in CLOSED_FORMS:
            return closed_form(settings, seq_len=self.seq_len, readout=readout)
        return counted_term(self, readout=readout)


class HuggingFaceModel(LanguageModel):
    """logits = body(tokens), where the body is the library's causal language model."""

    def __init__(self, config: HuggingFaceConfig) -> None:
        super().__init__()
        self.seq_len, settings = config.seq_len, config.settings()
        body = new_body(settings, path=config.path if config.pretrained else "")
        self.has_short_readout = parts.accepts(body, "logits_to_keep")
        self.cache_name = "cache_params" if parts.accepts(body, "cache_params") else "past_key_values"
        self.embedding, self.head = parts.take_ends(body, name=settings.model_type)
        self.body = body
        self.is_shifted = any(isinstance(part, torch.nn.Conv1d) for part in body.modules())

    def forward(
        self, tokens_BT: Tensor, context_BK: Tensor | None = None, *, readout: Readout = "all"
    ) -> Output:
        """See `LanguageModel.forward`."""
        check_length(tokens_BT.shape[1], seq_len=self.seq_len)
        is_last = readout == "last"
        found = self._run(tokens_BT, short=is_last and self.has_short_readout, use_cache=False)
        logits_BTV = found.logits[:, -1:] if is_last else found.logits
        return Output(logits_BTV.to(self.embedding.weight.dtype))

    def extend(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """See `LanguageModel.extend`; where the cache is more than tensors, the text is read again."""
        length = (0 if state is None else state.length) + tokens_BT.shape[1]
        check_length(length, seq_len=self.seq_len)
        if state is not None and "tokens_BT" in state.layers[0]:
            tokens_BT, state = torch.cat((state.layers[0]["tokens_BT"], tokens_BT), dim=1), None
        if state is None:
            found = self._run(tokens_BT, short=self.has_short_readout, use_cache=True)
            layers = parts.read_cache(found.get(self.cache_name), dtype=self.embedding.weight.dtype)
            layers = ({"tokens_BT": tokens_BT},) if layers is None else layers
        else:
            cache = parts.make_cache(self.body.config, state.layers)
            # With states of a recurrence in its cache the library reads one token at a time.
            is_recurrent = any("scan_BDN" in layer for layer in state.layers)
            step = 1 if is_recurrent else tokens_BT.shape[1]
            for first, piece_BT in enumerate(tokens_BT.split(step, dim=1)):
                how = {"short": self.has_short_readout, "use_cache": True}
                found = self._run(piece_BT, cache, n_before=state.length + first * step, **how)
            layers = parts.read_cache(cache, dtype=self.embedding.weight.dtype)
        return found.logits[:, -1].to(self.embedding.weight.dtype), State(length, layers)

    def _run(
        self, tokens_BT: Tensor, cache: Any = None, *, short: bool, use_cache: bool, n_before: int = 0
    ) -> Any:
        """The library's output.

        Args:
            cache: of the `n_before` tokens before these; None is the start of a text.
            short: whether only the last position is read out.
        """
        options = {"logits_to_keep": 1} if short else {}
        options |= {} if cache is None else {self.cache_name: cache}
        mask = parts.mask_for(self.body, tokens_BT, n_before=n_before)
        options |= {} if mask is None else {"attention_mask": mask}
        with parts.ShiftedConvolutions() if self.is_shifted else contextlib.nullcontext():
            return self.body(input_ids=tokens_BT, use_cache=use_cache, return_dict=True, **options)
