"""Domains of a corpus: leave one out of what is learned, and score one alone.

Every document belongs to a domain (in `shakespeare_plays` its genre). A model that never read one of
them meets a novel domain there: bits per byte on it, beside the same weights on the domains they know,
say what it costs. A domain that was left out is unseen as a whole, so all of its documents are
test text then, those that the corpus counts among train and valid too.
"""

from collections.abc import Callable
from dataclasses import replace

from lmbench.data.documents import Corpus, Document
from lmbench.errors import unknown


def choose(corpus: Corpus, *, without: str = "", only: str = "") -> Corpus:
    """The corpus without one domain, tested on one.

    Args:
        without: domain whose documents are in no split; "" leaves none out.
        only: domain of all documents of the test split; "" is all that are kept. If it is the one left
            out, test holds all its documents in the order train, valid, test. Train and valid stay.

    Raises:
        ValueError: a domain that the corpus lacks, or a split without a document.
    """
    known = {document.domain for documents in corpus.splits.values() for document in documents}
    for domain in (without, only):
        if domain and domain not in known:
            raise ValueError(unknown(f"domain of corpus {corpus.name}", domain, known))
    splits = {name: _of(part, lambda domain: domain != without) for name, part in corpus.splits.items()}
    if only:
        whole = only == without
        source = sum(corpus.splits.values(), ()) if whole else splits["test"]
        splits["test"] = _of(source, lambda domain: domain == only)
    for name, documents in splits.items():
        if not documents:
            held = sorted({document.domain for document in corpus.splits[name]})
            wanted = f"of domain {only!r}" if only and name == "test" else f"without domain {without!r}"
            raise ValueError(
                f"split {name!r} of corpus {corpus.name} has no document {wanted}; it has {', '.join(held)}"
            )
    return replace(corpus, splits=splits)


def vocabulary_source(corpus: Corpus, *, without: str) -> Corpus:
    """What a tokenizer is fitted on: train without the domain, which is moved to test.

    A tokenizer that learns from train so learns nothing of the domain, and one that lists the
    characters of all splits gives the same ids whatever is left out.
    """
    if not without:
        return corpus
    kept = choose(corpus, without=without).splits
    moved = choose(corpus, without=without, only=without).splits["test"]
    return replace(corpus, splits=kept | {"test": kept["test"] + moved}, published_vocab_sizes={})


def _of(documents: tuple[Document, ...], wanted: Callable[[str], bool]) -> tuple[Document, ...]:
    return tuple(document for document in documents if wanted(document.domain))
