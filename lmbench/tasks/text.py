"""Next-token prediction on a corpus.

`dense`: a batch row is T tokens of one document and its targets are the tokens one later,

    tokens   F i r s t _ C i
    targets  i r s t _ C i t      all scored

`last_token`: the same T tokens, and only the token after the last is a target (the
published study). Windows never cross a document's end; the first token of a document has
nothing before it and is not a target.

A split is scored by sliding window: the first window of a document scores all its
targets, each later one only its last `stride`, so that every target is scored once and
has at least seq_len - stride tokens before it. A window model sees its seq_len tokens
at every position anyway, so its windows are disjoint: the scores are the same, in half
the time.

A novel domain is made by two fields: weights that learned `without` a domain are scored on a
task that is tested `only` on it (see `data.domains`).

Legend: B batch, T position, K preceding tokens, N target.
"""

import hashlib
import math
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field, model_validator

from lmbench.config import Config, one_of
from lmbench.data.corpus import Corpus, fingerprint, load_corpus, refuse_overlap
from lmbench.data.domains import choose, vocabulary_source
from lmbench.data.splits import Split, chunks, sliding_windows, window_starts
from lmbench.data.tokenizer import Tokenizer
from lmbench.records import no_items
from lmbench.tasks.base import Batch, Scores, TaskConfig, TaskData, View
from lmbench.tasks.windows import WindowStream, drop_after, gather, keep_only

ITEM_BYTES = 256  # block of text that counts as one item in paired tests and bootstraps


class Text(TaskConfig):
    """Next-token prediction on one corpus with one tokenizer."""

    kind: ClassVar[Literal["text"]] = "text"

    corpus: str = "shakespeare_plays"
    """Name in datasets/manifest.json, or a folder with train.txt, valid.txt and test.txt."""
    tokenizer: one_of("tokenizer") = Field(default="char")
    """How text becomes ids."""
    substitute: Literal["", "valid"] = ""
    """"valid" takes train from valid's first 90% and valid from its last 10%; "" takes the true files."""
    train_tokens: int | None = Field(None, ge=1)
    """Use only the first tokens of train (80,000 in the published word-level study); None is all."""
    eval_tokens: int | None = Field(None, ge=1)
    """Use only the first tokens of valid and of test (20,000 there); None is all."""
    without: str = ""
    """Domain whose documents are left out of train and valid, and of test unless it is `only`; "" is none."""
    only: str = ""
    """Domain that alone is test; if it is the one left out, test is all its documents. "" is every domain."""
    corpus_sha256: str = ""
    """Fingerprint of the text, filled in by itself: another text is another run."""

    @model_validator(mode="before")
    @classmethod
    def _pin_text(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("corpus_sha256"):
            corpus = data.get("corpus", cls.model_fields["corpus"].default)
            return data | {"corpus_sha256": fingerprint(str(corpus), substitute=data.get("substitute", ""))}
        return data

    def canonical(self) -> dict[str, Any]:
        """A local folder counts by its name and content, not by where it lies."""
        plain = super().canonical()
        return plain | {"corpus": self.corpus.replace("\\", "/").rstrip("/").rpartition("/")[2]}

    def replace(self, **changes: Any) -> "Text":
        """A copy with some fields changed; another text gets its own fingerprint."""
        if {"corpus", "substitute"} & set(changes):
            changes = {"corpus_sha256": ""} | changes
        return super().replace(**changes)

    def load(self) -> "TextData":
        corpus = self._corpus()
        return TextData(
            self, self._chosen(corpus), self.tokenizer.fit(vocabulary_source(corpus, without=self.without))
        )

    def load_like(self, trained: TaskData) -> "TextData":
        """The text under the tokenizer that was fitted on the training text of a model.

        Raises:
            ValueError: another kind of tokenizer, or a character that its vocabulary lacks.
        """
        if self.tokenizer != trained.config.tokenizer:
            raise ValueError(
                f"the model was trained with tokenizer {trained.config.tokenizer!r}; the task asks for "
                f"{self.tokenizer!r}"
            )
        return TextData(self, self._chosen(self._corpus()), trained.tokenizer)

    def refuse_leak(self, scored: TaskConfig, *, split: str) -> None:
        """Refuse to score weights that learned this task on text of their own training.

        Train is train by name, so scoring that split is no mistake.

        Raises:
            ValueError: a corpus that shares text, a split that a substitution made into training text,
                or a domain scored as a whole that was not left out of training.
        """
        if not isinstance(scored, Text):
            return
        is_whole = split == "test" and scored.only != "" and scored.only == scored.without
        for held in ("train", "valid", "test") if is_whole else (split,):
            refuse_overlap(self.corpus, scored.corpus, split=held)
        if self.corpus != scored.corpus and _held_out_text(self) != _held_out_text(scored):
            return
        if self.substitute != scored.substitute and split != "test":
            raise ValueError(
                f"weights trained on {self.caption} are not scored on the {split} split of {scored.caption}: "
                "a substitution made some of that text training text"
            )
        if is_whole and self.without != scored.only:
            raise ValueError(
                f"weights trained on {self.caption} are not scored on {scored.caption}: they learned some of "
                f"its text; train with without = {scored.only!r}, or score without = '' and only = "
                f"{scored.only!r}"
            )

    def _chosen(self, corpus: Corpus) -> Corpus:
        return choose(corpus, without=self.without, only=self.only)

    def _corpus(self) -> Corpus:
        if fingerprint(self.corpus, substitute=self.substitute) != self.corpus_sha256:
            raise ValueError(f"the text of corpus {self.corpus!r} has changed since this run was defined")
        return load_corpus(self.corpus, substitute=self.substitute)

    @property
    def caption(self) -> str:
        corpus = self.canonical()["corpus"]
        swapped = ", train = first 90% of valid and valid = its last 10%" if self.substitute else ""
        capped = f", first {self.train_tokens:,} training tokens" if self.train_tokens else ""
        left_out = f" without {self.without}" if self.without else ""
        every = "all of " if self.only == self.without else ""
        tested = f", tested on {every}{self.only}" if self.only else ""
        return f"{corpus}{left_out} by {self.tokenizer.kind}{swapped}{capped}{tested}"


def _held_out_text(task: Text) -> str:
    """Fingerprint of valid and test, by which two spellings of one folder are the same corpus."""
    return fingerprint(task.corpus, substitute="valid")


class TextData(TaskData):
    """A tokenized corpus."""

    def __init__(self, config: Text, corpus: Corpus, tokenizer: Tokenizer) -> None:
        self.config, self.corpus, self.tokenizer = config, corpus, tokenizer
        self.vocab_size = tokenizer.vocab_size
        self.splits = {name: self._encode(name) for name in ("train", "valid", "test")}
        self._device_ids = lru_cache(maxsize=8)(self._to_device)
        self._device_documents = lru_cache(maxsize=8)(self._documents_to_device)

    def _encode(self, name: str) -> Split:
        encoded = [self.tokenizer.encode(document.text) for document in self.corpus.splits[name]]
        cap = self.config.train_tokens if name == "train" else self.config.eval_tokens
        ids, n_bytes, bounds, used = [], [], [], 0
        for part in encoded:
            room = len(part.ids) if cap is None else min(len(part.ids), cap - used)
            if room > 0:
                ids.append(part.ids[:room])
                n_bytes.append(None if part.n_bytes is None else part.n_bytes[:room])
                bounds.append((used, used + room))
                used += room
        doc_start = np.repeat([start for start, _ in bounds], [end - start for start, end in bounds])
        lossy = any(part is None for part in n_bytes)
        return Split(
            np.concatenate(ids), None if lossy else np.concatenate(n_bytes), doc_start, tuple(bounds)
        )

    def _to_device(self, split: str, device: torch.device) -> torch.Tensor:
        return torch.from_numpy(self.splits[split].ids_N).to(device)

    def _documents_to_device(self, split: str, device: torch.device) -> torch.Tensor:
        return torch.from_numpy(self.splits[split].doc_start_N).to(device)

    # ---------------------------------------------------------------- training

    def stream(self, run: Config, view: View) -> WindowStream:
        """Windows drawn uniformly with replacement from all that lie inside one document.

        Raises:
            ValueError: no document of the train split is longer than the context.
        """
        train = self.splits["train"]
        starts_S = window_starts(train, view.seq_len)
        if not len(starts_S):
            longest = max(end - start for start, end in train.bounds)
            raise ValueError(
                f"seq_len = {view.seq_len} needs a training text of at least {view.seq_len + 1} tokens; "
                f"the longest of {self.config.corpus!r} has {longest}"
            )
        ids_N = self._device_ids("train", view.device)
        doc_N = self._device_documents("train", view.device) if view.is_window else None
        return WindowStream(run, view, ids_N, doc_N, starts_S)

    # ---------------------------------------------------------------- evaluation

    def n_targets(self, split: str, protocol: Config, seq_len: int) -> int:
        """How many targets of a split the protocol scores."""
        part = self.splits[split]
        if protocol.kind == "last_token":
            windows = len(window_starts(part, seq_len))
            return windows if protocol.eval_windows is None else min(windows, protocol.eval_windows)
        targets = self._target_positions(split)
        if protocol.eval_bytes is None:
            return len(targets)
        if part.n_bytes_N is None:
            raise ValueError(
                f"eval_bytes needs a tokenizer that keeps every byte; {self.config.tokenizer.kind!r} does not"
            )
        return int(np.searchsorted(np.cumsum(part.n_bytes_N[targets]), protocol.eval_bytes, side="right"))

    def check_split(self, split: str, protocol: Config, seq_len: int) -> None:
        if self.n_targets(split, protocol, seq_len) < 1:
            tokens = len(self.splits[split].ids_N)
            raise ValueError(
                f"split {split!r} of {self.config.caption} has {tokens} tokens, too few for one target under "
                f"protocol {protocol.kind} with seq_len = {seq_len}"
            )

    def _target_positions(self, split: str) -> np.ndarray:
        """Positions of all tokens but the first of each document."""
        part = self.splits[split]
        return np.flatnonzero(part.doc_start_N != np.arange(len(part.ids_N)))

    def eval_batches(self, split: str, protocol: Config, view: View, *, eval_seed: int) -> Iterator[Batch]:
        part, ids_N = self.splits[split], self._device_ids(split, view.device)
        total = self.n_targets(split, protocol, view.seq_len)
        if protocol.kind == "last_token":
            starts = window_starts(part, view.seq_len)[:total]
            skips = np.zeros(len(starts), dtype=np.int64)
        else:
            stride = min(protocol.stride or max(1, view.seq_len // 2), view.seq_len)
            starts, skips = sliding_windows(part, view.seq_len, view.seq_len if view.is_window else stride)
        rows = max(1, view.eval_tokens // view.seq_len)
        left = total
        for at in range(0, len(starts), rows):
            if left <= 0:
                return
            start_B = torch.from_numpy(starts[at : at + rows]).to(view.device)
            doc_B = torch.from_numpy(part.doc_start_N[starts[at : at + rows]]).to(view.device)
            made = gather(ids_N, start_B, doc_B, view, last_only=protocol.kind == "last_token")
            if protocol.kind == "dense":
                ends = np.searchsorted([end for _, end in part.bounds], starts[at : at + rows], side="right")
                end_B = torch.tensor([part.bounds[i][1] for i in ends], device=view.device)
                keep_only(made, start_B, end_B, torch.from_numpy(skips[at : at + rows]).to(view.device))
            left = drop_after(made.targets_BT, left)
            yield made

    def summarise(
        self,
        split: str,
        protocol: Config,
        view: View,
        nll_N: np.ndarray,
        correct_N: np.ndarray,
        *,
        items: bool = True,
        eval_seed: int = 0,
    ) -> Scores:
        part, n = self.splits[split], len(nll_N)
        if protocol.kind == "last_token":
            positions = window_starts(part, view.seq_len)[:n] + view.seq_len
        else:
            positions = self._target_positions(split)[:n]
        n_bytes = None if part.n_bytes_N is None else part.n_bytes_N[positions]
        nll = float(nll_N.mean())
        if protocol.kind == "last_token" and protocol.average == "batch_mean":
            nll = float(np.mean([b.mean() for b in chunks(nll_N, protocol.eval_batch_size)]))
        metrics = {
            "nll": (nll, n),
            "perplexity": (math.exp(min(nll, 700.0)), n),
            "accuracy": (float(correct_N.mean()), n),
        }
        if n_bytes is not None:
            bits = float(nll_N.sum()) / math.log(2)
            metrics["bits_per_byte"] = (bits / float(n_bytes.sum()), int(n_bytes.sum()))
        if not self.tokenizer.lossless:
            metrics["unknown_rate"] = self._unknown_rate(split)
        table = self._items(nll_N, correct_N, n_bytes) if items else no_items()
        return Scores(metrics=metrics, items=table)

    @cache  # noqa: B019  (the task lives as long as the process; counting reads the whole split)
    def _unknown_rate(self, split: str) -> tuple[float, int]:
        """Share of the whole split's words that the vocabulary lacks, and the number of words."""
        text = " ".join(document.text for document in self.corpus.splits[split])
        return self.tokenizer.unknown_rate(text), len(self.tokenizer.encode(text).ids)

    def _items(self, nll_N: np.ndarray, correct_N: np.ndarray, n_bytes_N: np.ndarray | None) -> pd.DataFrame:
        width = np.ones(len(nll_N), dtype=np.int64) if n_bytes_N is None else n_bytes_N
        block = (np.cumsum(width) - width) // ITEM_BYTES
        frame = pd.DataFrame({"item": block, "nll": nll_N, "correct": correct_N, "n": 1})
        frame["bytes"] = 0 if n_bytes_N is None else n_bytes_N
        return frame.groupby("item", as_index=False).agg(
            {"nll": "sum", "n": "sum", "bytes": "sum", "correct": "sum"}
        )

    def eval_hash(self, split: str, protocol: Config, *, eval_seed: int) -> str:
        body = self.splits[split].ids_N.astype("<i8").tobytes()
        return hashlib.sha256(body + protocol.digest.encode()).hexdigest()
