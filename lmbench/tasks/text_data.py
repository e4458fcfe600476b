"""A tokenized corpus as windows to learn from, and as targets to score.

Windows never cross a document's end; the first token of a document has nothing before it and is
not a target. A split is scored by sliding window: the first window of a document scores all its
targets, each later one only its last `stride`, so that every target is scored once and has at
least seq_len - stride tokens before it. A window model sees its seq_len tokens at every position
anyway, so its windows are disjoint: the scores are the same, in half the time.

Legend: B batch, T position, K preceding tokens, N target.
"""

import hashlib
import math
from collections.abc import Iterator
from functools import cache, lru_cache

import numpy as np
import pandas as pd
import torch

from lmbench.config import Config
from lmbench.data.corpus import Corpus
from lmbench.data.splits import Split, chunks, sliding_windows, window_starts
from lmbench.data.tokenizer import Tokenizer
from lmbench.records import no_items
from lmbench.tasks.base import Batch, Scores, TaskData, View
from lmbench.tasks.windows import WindowStream, drop_after, gather, keep_only

ITEM_BYTES = 256  # block of text that counts as one item in paired tests and bootstraps


class TextData(TaskData):
    """A tokenized corpus.

    Args:
        config: the `tasks.text.Text` that asks for it.
        corpus: with the documents of each split as they are chosen already.
    """

    def __init__(self, config: Config, corpus: Corpus, tokenizer: Tokenizer) -> None:
        self.config, self.corpus, self.tokenizer = config, corpus, tokenizer
        self.vocab_size = tokenizer.vocab_size
        self.splits = {name: self._encode(name) for name in ("train", "valid", "test")}
        self._device_ids = lru_cache(maxsize=8)(self._to_device)
        self._device_documents = lru_cache(maxsize=8)(self._documents_to_device)
        self._starts = lru_cache(maxsize=2)(self._train_starts)  # as long as the text, and one for all runs

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

    def _train_starts(self, seq_len: int) -> np.ndarray:
        starts_S = window_starts(self.splits["train"], seq_len)
        starts_S.flags.writeable = False
        return starts_S

    # ---------------------------------------------------------------- training

    def stream(self, run: Config, view: View) -> WindowStream:
        """Windows drawn uniformly with replacement from all that lie inside one document.

        Raises:
            ValueError: no document of the train split is longer than the context.
        """
        train = self.splits["train"]
        starts_S = self._starts(view.seq_len)
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
