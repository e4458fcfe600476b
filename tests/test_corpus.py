"""Corpora: found, verified, substituted only by name, and identified by their text."""

import hashlib
import json
from pathlib import Path

import pytest

from lmbench.data.corpus import corpora, fingerprint, load_corpus, refuse_overlap
from lmbench.data.fetch import fetch
from lmbench.data.manifest import search_folders

SPLITS = ("train", "valid", "test")
LINES = {split: "".join(f"{split} line {i}\n" for i in range(10)) for split in SPLITS}


def write_folder(folder: Path, *, without: str = "", **texts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, text in (LINES | texts).items():
        if split != without:
            (folder / f"{split}.txt").write_bytes(text.encode())
    return folder


def sha256(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project that knows one corpus, `small`, whose files are not there."""
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    monkeypatch.delenv("LMBENCH_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    files = {f"{split}.txt": {"hashes": [sha256(text)]} for split, text in LINES.items()}
    entry = {"title": "Small", "licence": "none", "homepage": "", "files": files}
    entry["published_vocab_sizes"] = {"word": 12}
    write_manifest(tmp_path, small=entry)
    return tmp_path


def write_manifest(home: Path, **entries: object) -> None:
    (home / "datasets").mkdir(exist_ok=True)
    body = json.dumps({"schema": 1, "corpora": entries})
    (home / "datasets" / "manifest.json").write_text(body, encoding="utf-8")


# ------------------------------------------------------------------ finding and reading


def test_a_known_corpus_is_read_from_datasets(home: Path) -> None:
    write_folder(home / "datasets" / "small")
    corpus = load_corpus("small")
    assert (corpus.name, corpus.caption) == ("small", "")
    assert {split: corpus.text(split) for split in SPLITS} == LINES
    assert [(d.name, d.domain) for d in corpus.splits["train"]] == [("small/train", "small")]


def test_lmbench_data_is_looked_at_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(home / "datasets" / "small")
    own = write_folder(home / "own" / "small")
    monkeypatch.setenv("LMBENCH_DATA", str(own.parent))
    assert search_folders("small") == [own, home / "datasets" / "small"]
    (own / "train.txt").write_text("damaged")  # so we can tell which of the two was read
    with pytest.raises(ValueError, match=rf"{own}/train.txt is not the file"):
        load_corpus("small")


def test_a_file_with_another_hash_is_refused_with_what_was_expected_and_found(home: Path) -> None:
    write_folder(home / "datasets" / "small", valid="other\n")
    told = rf"valid.txt is not the file of corpus small: expected {sha256(LINES['valid'])}, "
    told += f"found {sha256('other' + chr(10))}"
    with pytest.raises(ValueError, match=told):
        load_corpus("small")


def test_a_file_changed_after_it_was_verified_is_refused(home: Path) -> None:
    folder = write_folder(home / "datasets" / "small")
    load_corpus("small")
    (folder / "test.txt").write_text("changed later\n")
    with pytest.raises(ValueError, match=r"test.txt is not the file of corpus small"):
        load_corpus("small")


@pytest.mark.parametrize("how", ["absolute", "relative", "bare name", "under LMBENCH_DATA", "under datasets"])
def test_a_local_folder_is_a_corpus(home: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    place = {"under LMBENCH_DATA": home / "own", "under datasets": home / "datasets"}.get(how, home)
    folder = write_folder(place / "mine")
    monkeypatch.setenv("LMBENCH_DATA", str(home / "own"))
    name = {"absolute": str(folder), "relative": "./mine"}.get(how, "mine")
    corpus = load_corpus(name)
    assert corpus.name == "mine"
    assert corpus.text("test") == LINES["test"]


def test_an_unknown_name_lists_the_known_and_says_that_folders_do(home: Path) -> None:
    told = r"unknown corpus 'smal'; accepted: small. Did you mean 'small'\? A folder holding train.txt"
    for call in (load_corpus, fingerprint):
        with pytest.raises(ValueError, match=told):
            call("smal")


def test_line_ends_and_unicode_come_back_byte_for_byte(home: Path) -> None:
    text = "caf\u00e9\r\n\u2028\U0001f600 \n"
    write_folder(home / "mine", train=text)
    assert load_corpus("mine").text("train") == text


def test_an_empty_file_is_refused(home: Path) -> None:
    write_folder(home / "mine", valid="")
    with pytest.raises(ValueError, match=r"mine/valid.txt is empty; a split needs text"):
        load_corpus("mine")


def test_a_file_that_is_not_utf8_is_refused_with_the_place(home: Path) -> None:
    folder = write_folder(home / "mine")
    (folder / "train.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match=r"train.txt is not UTF-8 \(byte 0xe9 at offset 3\); convert it"):
        load_corpus("mine")


def test_an_index_splits_text_into_documents_with_domains(home: Path) -> None:
    folder = write_folder(home / "mine", train="one two\n", valid="v\n", test="t\n")
    rows = {
        "train": [
            {"name": "a", "domain": "x", "start": 0, "end": 4},
            {"name": "b", "domain": "y", "start": 4, "end": 8},
        ],
        "valid": [{"name": "c", "domain": "x", "start": 0, "end": 2}],
        "test": [{"name": "d", "domain": "y", "start": 0, "end": 2}],
    }
    (folder / "documents.json").write_text(json.dumps(rows))
    documents = load_corpus("mine").splits["train"]
    assert [(d.text, d.name, d.domain) for d in documents] == [("one ", "a", "x"), ("two\n", "b", "y")]
    rows["train"][1]["end"] = 7
    (folder / "documents.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=r"split 'train' in .*documents.json do not cover its 8 characters"):
        load_corpus("mine")
    (folder / "documents.json").write_text("{}")
    with pytest.raises(ValueError, match=r"documents.json does not list split"):
        load_corpus("mine")


# ------------------------------------------------------------------ missing files and substitutes


def test_a_missing_train_names_the_file_the_command_and_the_substitute(home: Path) -> None:
    write_folder(home / "datasets" / "small", without="train")
    told = r"small/train.txt is missing .*substitute = 'valid'.*; run `lmbench data fetch small`, "
    told += r"or put the file at .*/datasets/small/train.txt or set LMBENCH_DATA"
    with pytest.raises(ValueError, match=told):
        load_corpus("small")


def test_another_missing_split_offers_no_substitute(home: Path) -> None:
    write_folder(home / "datasets" / "small", without="test")
    for substitute in ("", "valid"):
        with pytest.raises(ValueError, match=r"small/test.txt is missing; run `lmbench data fetch small`"):
            load_corpus("small", substitute=substitute)


def test_the_substitute_cuts_valid_at_the_line_end_nearest_to_nine_tenths(home: Path) -> None:
    write_folder(home / "mine", without="train", valid="".join(f"{i}\n" for i in range(10)))
    corpus = load_corpus("mine", substitute="valid")
    assert corpus.text("train") == "0\n1\n2\n3\n4\n5\n6\n7\n8\n"
    assert corpus.text("valid") == "9\n"
    assert corpus.text("test") == LINES["test"]
    # 90% of 20 characters is 18; the line ends lie at 15 and 20, and the last is no cut.
    write_folder(home / "mine", without="train", valid="12345678901234\n1234\n")
    assert load_corpus("mine", substitute="valid").text("valid") == "1234\n"


def test_a_substitute_is_named_in_the_caption_even_where_train_exists(home: Path) -> None:
    write_folder(home / "mine")
    corpus = load_corpus("mine", substitute="valid")
    assert corpus.caption == "train = first 90% of mine's valid, valid = its last 10%"
    assert not set(corpus.text("train")) & set("r")  # nothing of train.txt is left


def test_a_substitute_cuts_inside_documents_and_keeps_their_names(home: Path) -> None:
    folder = write_folder(home / "mine", valid="aaaa\nbbbb\ncccc\ndddd\neeee\nffff\ngggg\nhhhh\niiii\njjjj\n")
    bounds = {"train": [len(LINES["train"])], "valid": [25, 50], "test": [len(LINES["test"])]}
    rows = {
        split: [
            {"name": f"{split}{i}", "domain": "d", "start": start, "end": end}
            for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
        ]
        for split, ends in bounds.items()
    }
    (folder / "documents.json").write_text(json.dumps(rows))
    corpus = load_corpus("mine", substitute="valid")
    assert [(d.name, len(d.text)) for d in corpus.splits["train"]] == [("valid0", 25), ("valid1", 20)]
    assert [(d.name, d.text) for d in corpus.splits["valid"]] == [("valid1", "jjjj\n")]


def test_published_vocabulary_sizes_hold_for_true_splits_only(home: Path) -> None:
    write_folder(home / "datasets" / "small")
    assert load_corpus("small").published_vocab_sizes == {"word": 12}
    assert load_corpus("small", substitute="valid").published_vocab_sizes == {}


def test_any_other_substitute_is_refused(home: Path) -> None:
    for call in (load_corpus, fingerprint):
        with pytest.raises(
            ValueError, match=r"substitute = 'test' is not accepted; accepted: '' .* or 'valid'"
        ):
            call("small", substitute="test")


# ------------------------------------------------------------------ another cut of a known text


def add_other_cut(home: Path, *, valid: str = "") -> str:
    """Corpus `other`, the text of `small` cut at 100 and 200 bytes; returns that text."""
    text = "|".join(LINES[split] for split in SPLITS)
    cuts = {"train.txt": (0, 100), "valid.txt": (100, 200), "test.txt": (100, 200)}
    files = {name: {"hashes": [sha256(text[start:end])]} for name, (start, end) in cuts.items()}
    if valid:
        files["valid.txt"] = {"hashes": [sha256(valid)]}
    known = json.loads((home / "datasets" / "manifest.json").read_text(encoding="utf-8"))["corpora"]
    recut = {"corpus": "small", "joint": "|", "cuts": cuts}
    other = {"title": "", "licence": "", "homepage": "", "files": files, "recut": recut}
    write_manifest(home, **known, other=other)
    return text


@pytest.mark.parametrize("place", ["datasets", "own"])
def test_another_cut_is_made_from_the_joined_splits_of_its_text(
    home: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    text = add_other_cut(home)
    write_folder(home / place / "small")
    monkeypatch.setenv("LMBENCH_DATA", str(home / "own"))
    corpus = load_corpus("other")
    assert {split: corpus.text(split) for split in SPLITS} == {
        "train": text[:100], "valid": text[100:200], "test": text[100:200]
    }  # fmt: skip
    assert [d.name for d in corpus.splits["train"]] == ["other/train"]
    assert sorted(p.name for p in (home / "datasets" / "other").glob("*.txt")) == [
        "test.txt", "train.txt", "valid.txt"
    ]  # fmt: skip


def test_another_cut_asks_for_its_text_where_that_is_missing(home: Path) -> None:
    add_other_cut(home)
    with pytest.raises(ValueError, match=r"other/train.txt is missing .*; run `lmbench data fetch other`"):
        load_corpus("other")
    with pytest.raises(ValueError, match=r"small/train.txt could not be fetched"):
        fetch("other")


def test_another_cut_of_a_damaged_text_is_refused(home: Path) -> None:
    add_other_cut(home)
    write_folder(home / "datasets" / "small", train="damaged\n")
    with pytest.raises(ValueError, match=r"small/train.txt is not the file of corpus small"):
        load_corpus("other")


def test_another_cut_that_gives_other_text_is_refused_and_leaves_nothing(home: Path) -> None:
    add_other_cut(home, valid="other\n")
    write_folder(home / "datasets" / "small")
    with pytest.raises(ValueError, match=r"other/valid.txt as cut from small is not the pinned text: expec"):
        load_corpus("other")
    assert not list((home / "datasets" / "other").glob("*.txt"))


def test_the_cut_of_nanogpt_is_at_nine_tenths_of_the_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMBENCH_HOME", str(Path(__file__).resolve().parents[1]))
    known, n = corpora(), 1_115_394
    cut, files = known["tiny_shakespeare_90_10"].recut, known["tiny_shakespeare_90_10"].files
    assert cut.cuts == {"train.txt": (0, int(0.9 * n)), "valid.txt": (int(0.9 * n), n)} | {
        "test.txt": (int(0.9 * n), n)
    }
    assert all(files[name].n_bytes == end - start for name, (start, end) in cut.cuts.items())
    parts = known[cut.corpus].files.values()
    assert sum(part.n_bytes for part in parts) + 2 * len(cut.joint) == n


# ------------------------------------------------------------------ identity


def test_a_known_corpus_has_its_fingerprint_without_any_file(home: Path) -> None:
    assert not (home / "datasets" / "small").exists()
    assert len(fingerprint("small")) == 16
    assert int(fingerprint("small"), 16) >= 0


def test_a_fingerprint_follows_content_and_not_place(home: Path) -> None:
    first, second = write_folder(home / "a" / "mine"), write_folder(home / "b" / "other")
    assert fingerprint(str(first)) == fingerprint(str(second))
    (second / "test.txt").write_text("changed\n")
    assert fingerprint(str(first)) != fingerprint(str(second))


def test_a_substitute_changes_the_fingerprint_and_ignores_train(home: Path) -> None:
    folder = write_folder(home / "mine")
    whole, swapped = fingerprint("mine"), fingerprint("mine", substitute="valid")
    assert whole != swapped
    (folder / "train.txt").unlink()
    assert fingerprint("mine", substitute="valid") == swapped
    assert fingerprint("small") != fingerprint("small", substitute="valid")


def test_fingerprints_of_the_real_corpora_never_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMBENCH_HOME", str(Path(__file__).resolve().parents[1]))
    assert {name: fingerprint(name) for name in corpora()} == {
        "shakespeare_plays": "a1212a3813e14af8",
        "tiny_shakespeare": "598e6c3323cac31c",
        "tiny_shakespeare_90_10": "7b2013cdd8324e17",
        "ptb": "ad46e8d8cd71330f",
        "wikitext-2": "376fd843a8e13dab",
    }


def test_the_manifest_beside_the_code_serves_a_root_without_one(home: Path) -> None:
    (home / "datasets" / "manifest.json").unlink()
    assert "shakespeare_plays" in corpora()


def test_every_corpus_has_a_card_and_three_pinned_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).resolve().parents[1]
    monkeypatch.setenv("LMBENCH_HOME", str(root))
    for name, entry in corpora().items():
        card = (root / "datasets" / f"{name}.md").read_text(encoding="utf-8")
        assert "Licence" in card
        for split in SPLITS:
            pinned = entry.files[f"{split}.txt"]
            assert all(len(pin.split(":")[1]) in (32, 40, 64) for pin in pinned.hashes)
            assert pinned.sources or entry.wheel or entry.recut
            if pinned.n_bytes:
                assert f"{pinned.n_bytes:,}" in card


# ------------------------------------------------------------------ overlaps


def test_weights_are_not_scored_on_text_that_they_have_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMBENCH_HOME", str(Path(__file__).resolve().parents[1]))
    for split in SPLITS:
        with pytest.raises(
            ValueError, match=rf"shakespeare_plays are not scored on tiny_shakespeare/{split}"
        ):
            refuse_overlap("shakespeare_plays", "tiny_shakespeare", split=split)
    with pytest.raises(ValueError, match=r"tiny_shakespeare are not scored on shakespeare_plays/train"):
        refuse_overlap("tiny_shakespeare", "shakespeare_plays", split="train")


def test_two_cuts_of_one_text_are_not_scored_on_what_the_other_has_learned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LMBENCH_HOME", str(Path(__file__).resolve().parents[1]))
    for split in SPLITS:
        for learned in ("tiny_shakespeare_90_10", "shakespeare_plays"):
            other = {"tiny_shakespeare_90_10": "tiny_shakespeare"}.get(learned, "tiny_shakespeare_90_10")
            with pytest.raises(ValueError, match=rf"trained on {learned} are not scored on {other}/{split}"):
                refuse_overlap(learned, other, split=split)
    with pytest.raises(ValueError, match=r"tiny_shakespeare are not scored on tiny_shakespeare_90_10/train"):
        refuse_overlap("tiny_shakespeare", "tiny_shakespeare_90_10", split="train")
    refuse_overlap("tiny_shakespeare", "tiny_shakespeare_90_10", split="valid")


def test_text_without_overlap_may_be_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMBENCH_HOME", str(Path(__file__).resolve().parents[1]))
    refuse_overlap("tiny_shakespeare", "shakespeare_plays", split="test")  # its plays are all in train
    refuse_overlap("shakespeare_plays", "shakespeare_plays", split="test")
    refuse_overlap("shakespeare_plays", "ptb", split="test")
    refuse_overlap("/some/folder", "tiny_shakespeare", split="test")
