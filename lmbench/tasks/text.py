"""Next-token prediction on a corpus.

`dense`: a batch row is T tokens of one document and its targets are the tokens one later,

    tokens   F i r s t _ C i
    targets  i r s t _ C i t      all scored

`last_token`: the same T tokens, and only the token after the last is a target (the
published study). Which windows are learned from and scored: `tasks.text_data`.

A novel domain is made by two fields: weights that learned `without` a domain are scored on a
task that is tested `only` on it (see `data.domains`).
"""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from lmbench.config import one_of
from lmbench.data.corpus import Corpus, fingerprint, load_corpus, refuse_overlap
from lmbench.data.domains import choose, vocabulary_source
from lmbench.tasks.base import TaskConfig, TaskData
from lmbench.tasks.text_data import TextData


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
