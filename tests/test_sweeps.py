"""Sweeps of one setting, and the generated readings of sweeps and comparisons."""

import pandas as pd
import pytest

from lmbench.analysis import figures, reading, sweeps
from lmbench.analysis.stats import paired_differences, t_interval

SWEEPS = {"context": ("linear", "seq_len", [32, 64, 128]), "layers": ("transformer", "n_layer", [2, 4])}
REGIMES = ("published", "dense short", "dense long")
SEEDS = (0, 1, 2)
JITTER = (0.0, 0.02, 0.01)  # per seed, the same for every cell, so that pairs differ by exactly the mean


def run_rows(run, *, nll, seed, lr=1e-3, **model):
    """Tidy rows of one finished run."""
    fixed = {
        "run": run, "label": "m", "device": "cpu: test", "init_seed": seed, "weights": "best",
        "optimizer.lr": lr, "task": "text", "level": "", "tokens": 0, "flops": 0.0, "seconds": 0.0, "n": 9,
        "step": 10, "evaluation": "",
    }  # fmt: skip
    fixed |= {f"model.{key}": value for key, value in model.items()}
    scored = [("test", "nll", nll), ("test", "accuracy", 0.5), ("valid", "nll", 0.1)]
    scored += [("", "parameters", 100.0 * nll), ("", "train_flops", 1e6 * nll)]
    return [fixed | {"split": s, "metric": m, "value": v} for s, m, v in scored]


def swept(losses, *, which=SWEEPS, jitter=JITTER):
    """Rows and groups of a study; losses[sweep, regime] are the mean losses of the sweep's levels."""
    rows, groups = [], {}
    for (sweep, regime), values in losses.items():
        _, field, levels = which[sweep]
        for level, nll in zip(levels, values, strict=True):
            for seed in SEEDS:
                run = f"{sweep}-{regime}-{level}-{seed}"
                # The published runs have one rate, the dense ones their own.
                lr = 1e-3 if regime == "published" else 2e-3
                rows += run_rows(run, nll=nll + jitter[seed], seed=seed, lr=lr, **{field: level})
                groups.setdefault((sweep, regime), []).append(run)
    return pd.DataFrame(rows), groups


RISING = {
    ("context", regime): (3.0, 3.1, 3.2) for regime in REGIMES
} | {
    ("layers", "published"): (2.0, 2.5),
    ("layers", "dense short"): (2.0, 2.4),
    ("layers", "dense long"): (2.0, 1.9),
}  # fmt: skip


def results(losses=RISING, **options):
    rows, groups = swept(losses, **options)
    return sweeps.sweep_results(rows, groups, options.get("which", SWEEPS))


# ------------------------------------------------------------------ which runs belong where


def test_each_run_stands_in_its_cell_with_its_test_loss():
    found = results()
    assert len(found) == 3 * (3 + 2) * 3
    assert found["level"].drop_duplicates().tolist() == ["32", "64", "128", "2", "4"]
    cell = found.query("sweep == 'layers' and regime == 'dense short' and level == '4'")
    assert cell["seed"].tolist() == [0, 1, 2]
    assert cell["value"].tolist() == pytest.approx([2.4, 2.42, 2.41])


def test_a_run_may_stand_in_several_sweeps():
    rows = pd.DataFrame(
        [
            row
            for seed in SEEDS
            for row in run_rows(f"r{seed}", nll=2.0 + seed, seed=seed, n_layer=3, n_head=4)
        ]
    )
    both = {"layers": ("transformer", "n_layer", [3]), "heads": ("transformer", "n_head", [4])}
    groups = {("layers", "published"): ["r0", "r1", "r2"], ("heads", "published"): ["r2", "r0"]}
    found = sweeps.sweep_results(rows, groups, both)
    assert list(zip(found["sweep"], found["level"], found["run"], strict=True)) == [
        ("layers", "3", "r0"), ("layers", "3", "r1"), ("layers", "3", "r2"),
        ("heads", "4", "r2"), ("heads", "4", "r0"),
    ]  # fmt: skip
    assert found["value"].tolist() == [2, 3, 4, 4, 2]


# ------------------------------------------------------------------ the table


def test_the_table_has_one_row_a_cell_with_mean_interval_costs_and_rate():
    table = sweeps.sweep_table(results(), SWEEPS, published={})
    assert len(table) == 3 * (3 + 2)
    row = table.query("sweep == 'context' and regime == 'dense long' and level == '64'").iloc[0]
    known = t_interval([3.1, 3.12, 3.11])
    assert row["n"] == 3
    assert row["test NLL (nats per token)"] == pytest.approx(3.11)
    assert row[[sweeps.LOW, sweeps.HIGH]].tolist() == pytest.approx([known.low, known.high])
    assert row["parameters"] == pytest.approx(310)  # of the cell's first run
    assert row["training FLOPs"] == pytest.approx(3.1e6)
    assert row["learning rate"] == 2e-3


def test_published_values_stand_beside_their_levels_in_the_published_regime_only():
    published = {"context": [3.04, 3.05, 3.06], "layers": [2.05, 2.28]}
    table = sweeps.sweep_table(results(), SWEEPS, published=published)
    beside = (
        table[table["regime"] == "published"].set_index(["sweep", "level"])["published, 1 seed"].to_dict()
    )
    assert beside == {
        ("context", "32"): 3.04, ("context", "64"): 3.05, ("context", "128"): 3.06,
        ("layers", "2"): 2.05, ("layers", "4"): 2.28,
    }  # fmt: skip
    assert table[table["regime"] != "published"]["published, 1 seed"].isna().all()


def test_published_values_that_do_not_fit_the_levels_are_refused():
    with pytest.raises(ValueError, match="zip"):
        sweeps.sweep_table(results(), SWEEPS, published={"layers": [2.05]})


# ------------------------------------------------------------------ the reading of sweeps


def paragraphs(losses=RISING, **options):
    which = options.get("which", SWEEPS)
    return sweeps.sweep_reading(results(losses, **options), which).split("\n\n")


def of(found, *words):
    (text,) = [text for text in found if all(word in text for word in words)]
    return text


def test_each_regime_judges_the_published_findings_on_its_own_runs():
    found = paragraphs()
    for regime in REGIMES:
        context = of(found, f"Regime {regime}.", "linear model's context")
        assert "raises the loss: holds (1 of 1" in context
        assert "32 is lower than 128" in context
    assert "raises the loss: holds" in of(found, "Regime dense short.", "transformer's depth")
    assert "raises the loss: refuted" in of(found, "Regime dense long.", "transformer's depth")


def test_a_difference_smaller_than_its_noise_is_not_decided():
    losses = {("layers", "published"): (2.0, 2.01)}
    rows, groups = swept(losses)
    # The seeds of the deeper cell scatter in another order, so that the pairs differ.
    deeper = (rows["model.n_layer"] == 4) & (rows["metric"] == "nll") & (rows["split"] == "test")
    rows.loc[deeper, "value"] = [2.3, 1.8, 2.0]
    which = {"layers": SWEEPS["layers"]}
    text = sweeps.sweep_reading(sweeps.sweep_results(rows, groups, which), which)
    assert "raises the loss: not decided (0 of 1 comparisons show it, 0 the opposite)" in text


def test_capacity_compares_the_gap_of_the_short_budget_with_that_of_the_long_one():
    text = of(paragraphs(), "Capacity and compute, on the sweep over layers")
    # 2 minus 4 layers: -0.4 with few steps, +0.1 with many.
    assert "favour the smaller model more than many do: holds" in text
    assert "2 minus 4 with few steps is lower than 2 minus 4 with many steps: −0.5" in text
    swapped = RISING | {("layers", "dense short"): (2.0, 1.9), ("layers", "dense long"): (2.0, 2.4)}
    assert "do: refuted" in of(paragraphs(swapped), "Capacity and compute, on the sweep over layers")
    only = {key: value for key, value in RISING.items() if key[1] != "dense long"}
    assert not [text for text in paragraphs(only) if "Capacity" in text], "one budget has nothing to compare"


def test_neighbouring_levels_are_compared_in_order_and_no_others():
    text = of(paragraphs(), "Neighbouring levels of context, regime published")
    assert "32 is lower than 64" in text and "64 is lower than 128" in text
    assert "32 is lower than 128" not in text
    assert len([text for text in paragraphs() if text.startswith("Neighbouring levels")]) == 3 * 2


def test_positions_are_judged_only_where_learned_and_rope_were_both_run():
    both = {"positions": ("transformer", "positions", ["learned", "rope", "none"])}
    one = {"positions": ("transformer", "positions", ["learned", "none"])}
    claim = "RoPE gives a higher loss than learned positions"
    losses = {("positions", "published"): (2.0, 2.2, 2.5)}
    assert f"{claim}: holds" in of(paragraphs(losses, which=both), "Regime published", "RoPE")
    losses = {("positions", "published"): (2.2, 2.0, 2.5)}
    assert f"{claim}: refuted" in of(paragraphs(losses, which=both), "Regime published", "RoPE")
    assert claim not in "".join(paragraphs({("positions", "published"): (2.0, 2.5)}, which=one))


# ------------------------------------------------------------------ the reading of a comparison

MEANS = {"linear": 3.0, "mlp": 2.5, "self_attention": 2.2, "transformer": 2.1}


def compared(means=MEANS, *, flops=None):
    """One row per run, as `final_table` gives them."""
    return pd.DataFrame(
        [
            {
                "label": label, "init_seed": seed, "bits_per_byte": mean + JITTER[seed],
                "accuracy": 1 - mean / 10 - JITTER[seed], "train_flops": (flops or {}).get(label, 1e12),
            }
            for label, mean in means.items()
            for seed in SEEDS
        ]
    )  # fmt: skip


def verdicts(*args, **options):
    found = reading.architecture_verdicts(compared(*args, **options), metric="bits_per_byte")
    return {verdict.claim.split()[0]: verdict for verdict in found}


def test_attention_and_nonlinear_models_are_judged_against_mlp_and_linear():
    found = verdicts()
    assert {claim: verdict.decided for claim, verdict in found.items()} == {
        "attention-based": "holds",
        "nonlinear": "holds",
    }
    assert "2 of 2 comparisons" in found["attention-based"].text
    assert "3 of 3 comparisons" in found["nonlinear"].text
    turned = verdicts({"linear": 2.0, "mlp": 2.1, "transformer": 2.5})
    assert {verdict.decided for verdict in turned.values()} == {"refuted"}


def test_a_model_that_wins_with_more_flops_has_shown_nothing_per_flop():
    found = verdicts(flops={"transformer": 2e12, "self_attention": 2e12})
    assert found["attention-based"].decided == "not decided"
    assert "had more FLOPs" in found["attention-based"].text
    assert found["nonlinear"].decided == "holds"


@pytest.mark.parametrize(
    "models, claims",
    [
        (("linear", "mlp"), ["nonlinear"]),
        (("mlp", "transformer"), ["attention-based"]),
        (("linear", "transformer"), ["nonlinear"]),
        (("self_attention", "transformer"), []),
        (("transformer",), []),
        (("linear", "mlp", "transformer_modern"), ["nonlinear"]),
    ],
)
def test_only_the_claims_that_the_models_at_hand_can_test_are_judged(models, claims):
    assert list(verdicts({name: MEANS.get(name, 2.0) for name in models})) == claims


def test_the_reading_ranks_compares_with_the_best_reference_and_judges():
    runs = compared()
    pairs = paired_differences(runs, group="label", unit="init_seed", value="bits_per_byte")
    references = pd.DataFrame({"predictor": ["unigram", "zlib"], "bits_per_byte": [4.8, 2.3]})
    text = reading.comparison_reading(runs, pairs=pairs, references=references, metric="bits_per_byte")
    first, second, third, *rest = text.split("\n\n")
    assert first.startswith("Mean bits per byte, best first: transformer 2.11")
    assert second.startswith("The best reference predictor, zlib, reaches 2.3 bits per byte: ")
    assert "self_attention, transformer better than it" in second
    assert "linear, mlp worse than it" in second
    assert "Holm's correction covers all 6 comparisons" in third
    assert [paragraph.split()[0] for paragraph in rest] == ["Attention-based", "Nonlinear"]


def test_of_many_pairs_those_of_the_best_model_are_told_with_the_family_that_they_are_of():
    runs = compared({f"model {at}": 2.0 + 0.1 * at for at in range(8)})
    pairs = paired_differences(runs, group="label", unit="init_seed", value="bits_per_byte")
    text = reading.comparison_reading(runs, pairs=pairs, references=None, metric="bits_per_byte")
    assert "Holm's correction covers all 28 comparisons, of which those of the best model are told." in text
    told = text.split("\n\n")[1]
    assert told.count("model 0 ") + told.count("than model 0") >= 7
    assert "model 6 and model 7" not in told and "model 6 is" not in told
    figure = figures.paired_differences(pairs, metric="bits_per_byte", runs=runs)
    assert (
        "of 28 pairs those of the best are drawn; filled: p < 0.05 (Holm, 28 comparisons)" in figure.caption
    )
    assert "model 0 minus model 7" in figure.alt and "model 6 minus model 7" not in figure.alt
    few = figures.paired_differences(pairs.iloc[:20], metric="bits_per_byte", runs=runs)
    assert "are drawn" not in few.caption


def test_one_model_alone_is_ranked_and_compared_with_nothing():
    runs = compared({"mlp": 2.5})
    text = reading.comparison_reading(runs, pairs=None, references=None, metric="bits_per_byte")
    assert text.startswith("Mean bits per byte, best first: mlp 2.51")
    assert "\n\n" not in text


def test_a_metric_that_is_better_when_higher_is_ranked_from_the_top_and_judged_by_no_finding():
    runs = compared({"linear": 3.0, "transformer": 2.1})
    text = reading.comparison_reading(
        runs,
        pairs=paired_differences(runs, group="label", unit="init_seed", value="accuracy"),
        references=None,
        metric="accuracy",
    )
    assert "best first: transformer 0.78" in text
    assert "linear is lower than transformer" in text or "transformer is higher than linear" in text
    # The findings are about losses: on accuracy the sign of a difference would refute what it shows.
    assert "loss" not in text
