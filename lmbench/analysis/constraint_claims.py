"""The claims of constraint acceleration beside what was measured: the table of verdicts and its reading.

Every claim of the registry has at least one row. What the arms at hand cannot test is listed with
the reason, and so is what no small model can. p values are adjusted by Holm inside the families of the
registry before a sign counts as shown.
"""

import math
from collections.abc import Sequence

import pandas as pd

from lmbench.analysis.checks import require
from lmbench.analysis.claims import BASE, CLAIMS, Claim, adjusted_by_family, claim
from lmbench.analysis.constraint_arms import LONGER, RACED
from lmbench.analysis.constraint_capabilities import emergence_tests
from lmbench.analysis.constraint_costs import cost_ratios
from lmbench.analysis.constraint_evidence import Evidence, Tested
from lmbench.analysis.constraint_quality import quality_tests
from lmbench.analysis.constraint_schedule import race, schedule_tests
from lmbench.analysis.constraint_shape import shape_tests
from lmbench.analysis.constraint_shifts import shift_tests
from lmbench.analysis.equivalence import MARGIN
from lmbench.analysis.replication import IN_WORDS, Verdict, overall
from lmbench.analysis.words import capital, p_value, percent

COLUMNS = ["id", "claim", "claimed", "compared", "measured", "p_holm", "verdict", "overall"]
MASKED = "masks leave units out of the result, not out of the work, so they save no time"
RULES = (
    "A claimed ratio is replicated where its 95% interval lies beyond half of the claim on the log scale; it "
    "has the right direction, but is smaller, where the interval excludes 1 on the claimed side and no more; "
    "and it is not replicated where the effect is reversed, or half of it is excluded and its sign is open. "
    "A side is replicated where the interval excludes 0, a band where all of the interval lies inside, "
    "equality where it is within the margin. A sign counts where Holm's p, inside the claim's family, is "
    'below 0.05. A claim that names its parts with "or" needs one of them, every other one needs all.'
)


def findings(
    runs: pd.DataFrame,
    rows: pd.DataFrame,
    *,
    widths: pd.DataFrame | None = None,
    inference: pd.DataFrame | None = None,
    coverage: pd.DataFrame | None = None,
    emergence: pd.DataFrame | None = None,
    shifted: pd.DataFrame | None = None,
    metric: str = "bits_per_byte",
    margin: float = MARGIN,
    slack: float = 0.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Judge every claim of the registry by the evidence that is there.

    Args:
        runs: see `Evidence`, like `rows`, `widths`, `inference`, `coverage`, `emergence`, `shifted` and
            `metric`.
        margin: relative; a difference in the metric that counts as none.
        slack: relative, of the target loss in races.
        seed: of resampling.

    Returns:
        One row a test, and one for each claim without: id, claim, claimed, compared, measured, p_holm
        (NaN where the verdict needs none), verdict (in the words of `replication.IN_WORDS`), and overall,
        the verdict on the claim, of which the test may be a part (`Claim.needs`).

    Raises:
        ValueError: an arm with a single seed, seeds of compared arms that do not match, a run that
            diverged.
    """
    for column in ("label", "init_seed", metric):
        require(runs, column)
    counts = runs.groupby("label", sort=False)["init_seed"].nunique()
    if counts.min() < 2:
        raise ValueError(f"verdicts need at least 2 seeds of every arm, got 1 of {counts.idxmin()!r}")
    evidence = Evidence(
        runs=runs, rows=rows, widths=widths, inference=inference, coverage=coverage, emergence=emergence,
        shifted=shifted, metric=metric, margin=margin, slack=slack, seed=seed,
    )  # fmt: skip
    parts = (quality_tests, _races, emergence_tests, shift_tests, shape_tests, schedule_tests)
    return judged([test for part in parts for test in part(evidence)])


def race_pairs(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Which arms race to the base's final loss; those of the claims first, then all others."""
    rest = [arm for arm in arms if arm not in (BASE, *RACED)]
    return [(arm, BASE) for arm in (*RACED, *rest) if arm in arms and BASE in arms]


def _races(evidence: Evidence) -> list[Tested]:
    """A3 and A4."""
    pairs = [pair for pair in race_pairs(evidence.arms) if pair[0] in RACED]
    table = cost_ratios(evidence.rows, pairs, metric=evidence.metric, slack=evidence.slack)
    ids, masked = {"FLOPs": "A3", "seconds": "A4"}, _masked(evidence.runs)
    found = []
    for row in table.to_dict("records"):
        if row["cost"] == "seconds" and row["a"] in masked:
            row["objection"] = "; ".join(filter(None, [MASKED, row["objection"]]))
        if row["cost"] in ids:
            known = claim(ids[row["cost"]])
            test = race(known.id, row, known.claimed, f"{row['a']} against {row['b']}")
            # An arm that went on until it had spent what the base has decides, where there is one.
            found.append(test._replace(is_beside=row["a"] + LONGER in evidence.arms))
    return found


def _masked(runs: pd.DataFrame) -> set[str]:
    """Arms whose constraint was executed as masks."""
    if "methods" not in runs:
        return set()
    return set(runs["label"][runs["methods"].str.contains('"execution": "mask"', regex=False, na=False)])


def judged(tests: Sequence[Tested]) -> pd.DataFrame:
    """All tests with their verdicts after the adjustment, and every claim that has none."""
    with_p = [(test.id, test.p) for test in tests if test.p is not None]
    adjusted = iter(adjusted_by_family([id for id, _ in with_p], [p for _, p in with_p]))
    found: dict[str, list[tuple]] = {}
    parts: dict[str, list[Verdict]] = {}
    for test in tests:
        p = math.nan if test.p is None else next(adjusted)
        verdict, measured = test.judge(p)
        found.setdefault(test.id, []).append((test.compared, measured, p, IN_WORDS[verdict]))
        if not test.is_beside:
            parts.setdefault(test.id, []).append(verdict)
    rows = []
    for known in CLAIMS:
        missing = [("", _reason(known), math.nan, IN_WORDS["NT"])]
        decided = IN_WORDS[overall(parts.get(known.id, []), needs=known.needs)]
        for compared, measured, p, verdict in found.get(known.id, missing):
            rows.append((known.id, known.claim, known.number, compared, measured, p, verdict, decided))
    return pd.DataFrame(rows, columns=COLUMNS)


def _reason(known: Claim) -> str:
    """Why a claim has no test."""
    if known.out_of_reach:
        return known.out_of_reach
    arms = " or ".join(known.treatment)
    arms += " at two levels or more" if "…" in arms else ""
    return f"needs {known.baseline} and {arms}, scored for {known.metric}; not among what was run here"


def judged_claims(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `findings` that were tested."""
    return table[table["verdict"] != IN_WORDS["NT"]].reset_index(drop=True)


def untested_claims(table: pd.DataFrame) -> pd.DataFrame:
    """Claims that were not tested: id, claim, claimed, reason."""
    rest = table[table["verdict"] == IN_WORDS["NT"]]
    return rest.rename(columns={"measured": "reason"})[["id", "claim", "claimed", "reason"]].reset_index(
        drop=True
    )


def reading(table: pd.DataFrame, *, margin: float = MARGIN, n_seeds: int | None = None) -> str:
    """Paragraphs: how many claims have which verdict, the rules, each claim with its parts, what is left.

    Args:
        table: from `findings`.
        n_seeds: paired seeds of every arm; named where it is known.
    """
    done = judged_claims(table)
    counts = done.drop_duplicates("id")["overall"].value_counts()
    order = [IN_WORDS[name] for name in ("REP", "DIR", "NOT", "INC")]
    said = ", ".join(f"{counts.get(name, 0)} {name}" for name in order)
    of = f" with {n_seeds} paired seeds an arm" if n_seeds else ""
    opening = (
        f"{done['id'].nunique()} of {len(CLAIMS)} claims were tested{of}, in {len(done)} parts: {said}. "
        f"{RULES} Equal is within {percent(margin)}."
    )
    each = [_told(own) for _, own in done.groupby("id", sort=False)]
    rest = []
    for reason, own in untested_claims(table).groupby("reason", sort=False):
        # Several tests of one claim may lack the same.
        named = ", ".join(dict.fromkeys(f"{row.id} ({row.claim})" for row in own.itertuples()))
        rest.append(f"{named}: {reason}")
    return "\n\n".join([opening, *each, f"Not tested here. {'. '.join(rest)}."])


def _told(own: pd.DataFrame) -> str:
    """The paragraph of one claim: its verdict, and where it has several parts theirs."""
    first = own.iloc[0]
    name = f"{first['id']}, {first['claim']}" + (
        f" (claimed: {first['claimed']})" if first["claimed"] else ""
    )
    said = []
    for row in own.itertuples():
        p = "" if math.isnan(row.p_holm) else f"; Holm's {p_value(row.p_holm)}"
        said.append((row.compared, row.verdict, f"{row.measured}{p}"))
    if len(said) == 1:
        compared, verdict, measured = said[0]
        return f"{name}: {verdict}. {capital(compared)}: {measured}."
    parts = " ".join(f"{capital(compared)}: {verdict} ({measured})." for compared, verdict, measured in said)
    return f"{name}: {first['overall']}. {parts}"
