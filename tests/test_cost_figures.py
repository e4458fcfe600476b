"""Cost tables, figures and sentences: what they take from the rows, and what they refuse."""

import pandas as pd
import pytest

from lmbench.analysis import cost_figures, style
from lmbench.analysis.cost_reading import cost_reading, counter_words, memory_words, training_words
from lmbench.analysis.cost_tables import decode_table, latency_table, memory_table, readable_memory
from lmbench.config import kinds

MODELS = ("transformer", "lstm", "ssm")


def rows(**changes):
    """Rows as `latency_rows` gives them: a cached token takes 1 ms a text, without a cache 1 ms a token."""
    out = []
    for label in MODELS:
        fixed = {"run": label, "label": label, "device": "cpu: test", "n": 5}
        for batch in (1, 4):
            for length in (8, 64):
                level = fixed | {"level": f"{batch}|{length}"}
                for kind, ms in (("prefill", length), ("decode", 1), ("decode_uncached", length)):
                    for end, factor in (("", 1), ("_low", 0.5), ("_high", 2)):
                        value = batch * ms * factor / 1000
                        out.append(level | {"metric": f"{kind}_seconds{end}", "value": value})
        state = 64 * 100 if label == "transformer" else 500
        one = 100 if label == "transformer" else 500
        for name, value in (
            ("weights", 4000), ("train_peak", 90_000), ("prefill_peak", 20_000), ("state", state),
            ("state_one", one),
        ):  # fmt: skip
            out.append(fixed | {"level": "1|64", "metric": f"{name}_bytes", "value": value, "n": 1})
    return pd.DataFrame(out).assign(**changes)


def ledger():
    terms = [
        ("attention", 100.0, False),
        ("feedforward", 300.0, False),
        ("scan", 50.0, True),
        ("magic", 7.0, False),
    ]
    return pd.DataFrame(
        [
            {
                "model": model,
                "term": term,
                "forward FLOPs per token": flops,
                "share": 0.1,
                "element-wise": is_scan,
            }
            for model in MODELS
            for term, flops, is_scan in terms
        ]
    )


def counts(unexplained=0):
    ratios = {"torch, CPU": 1.0, "torch, meta device": 1.0, "fvcore x 2": 0.5, "6 N per token": 2.0}
    return pd.DataFrame(
        [
            {"model": model, "count": count, "ratio": ratio, "unexplained": unexplained}
            for model in MODELS
            for count, ratio in ratios.items()
        ]
    )


def costs():
    return pd.DataFrame(
        {
            "model": MODELS,
            "parameters": 1000,
            "training FLOPs per token": [3000.0, 1000.0, 2000.0],
            "of them element-wise": [0.0, 0.0, 200.0],
        }
    )


# ------------------------------------------------------------------ tables


def test_latencies_are_milliseconds_with_their_range_and_tokens_per_second():
    table = latency_table(rows())
    assert len(table) == 3 * 4 * 3
    row = table[(table["batch"] == 4) & (table["context"] == 64) & (table["work"] == "prefill")].iloc[0]
    assert (row["ms"], row["low"], row["high"], row["repeats"]) == pytest.approx((256, 128, 512, 5))
    assert row["tokens_per_second"] == pytest.approx(1000)
    written = table[(table["batch"] == 4) & (table["work"] == "token, cached")]
    assert written["tokens_per_second"].tolist() == pytest.approx([1000] * 6)


def test_what_the_cache_is_worth_stands_at_the_longest_context():
    table = decode_table(latency_table(rows()))
    assert table["model"].tolist() == list(MODELS)
    assert table["context"].tolist() == [64, 64, 64]
    assert table["times faster by the cache"].tolist() == pytest.approx([64] * 3)
    assert table["tokens/s, cached"].tolist() == pytest.approx([1000] * 3)


def test_the_state_per_token_is_what_each_token_after_the_first_adds():
    table = memory_table(rows()).set_index("model")
    assert table["state per token"].to_dict() == {"transformer": 100, "lstm": 0, "ssm": 0}
    assert readable_memory(memory_table(rows()))["training peak"].tolist() == ["90.0 kB"] * 3


def test_times_of_several_devices_are_refused():
    mixed = rows()
    mixed.loc[mixed["label"] == "lstm", "device"] = "another"
    with pytest.raises(
        ValueError, match=r"seconds cannot be compared over several devices \(another, cpu: test\)"
    ):
        latency_table(mixed)


def test_empty_tables_are_refused():
    for table in (latency_table, memory_table):
        with pytest.raises(ValueError, match="is empty: there are no finished runs to show"):
            table(rows()[:0])


# ------------------------------------------------------------------ figures

DRAWN = {
    "ledger_bars": lambda: cost_figures.ledger_bars(ledger(), parameters="1,000 parameters each"),
    "counts_panel": lambda: cost_figures.counts_panel(counts()),
    "memory_panel": lambda: cost_figures.memory_panel(memory_table(rows())),
    "latency_panel": lambda: cost_figures.latency_panel(latency_table(rows())),
    "throughput": lambda: cost_figures.throughput(latency_table(rows())),
}


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_has_labels_a_caption_a_description_and_fits_its_canvas(name):
    fig = DRAWN[name]()
    assert fig.caption
    assert any(character.isdigit() for character in fig.alt)
    assert all(ax.get_xlabel() for ax in fig.axes)
    with style.context():
        fig.draw_without_rendering()
        boxes = [ax.get_tightbbox() for ax in fig.axes]
        boxes += [text.get_window_extent() for text in fig.texts]
        boxes += [legend.get_window_extent() for legend in fig.legends]
    for box in boxes:
        assert min(box.x0, box.y0, fig.bbox.x1 - box.x1, fig.bbox.y1 - box.y1) >= -1


def test_bars_stack_to_the_whole_and_an_unknown_term_is_other():
    fig = DRAWN["ledger_bars"]()
    (ax,) = fig.axes
    ends = {round(patch.get_x() + patch.get_width(), 6) for patch in ax.patches}
    assert max(ends) == 457
    named = [text.get_text() for text in fig.legends[0].texts]
    assert named == [
        "positions with each other",
        "position-wise maps",
        "other products",
        "element by element",
    ]


def test_latency_is_drawn_for_the_smallest_batch_and_throughput_for_the_longest_context():
    first = DRAWN["latency_panel"]().axes[0].lines[0]
    assert first.get_xdata().tolist() == [8, 64]
    assert first.get_ydata().tolist() == pytest.approx([8, 64])
    rate = DRAWN["throughput"]().axes[0].lines[0]
    assert rate.get_xdata().tolist() == [1, 4]
    assert rate.get_ydata().tolist() == pytest.approx([1000, 1000])


def test_captions_say_repeats_and_device():
    assert DRAWN["latency_panel"]().caption == (
        "One text at a time. Medians of 5 repeats with their range; cpu: test."
    )
    assert "unexplained: 0 of 12" in DRAWN["counts_panel"]().caption


def test_a_count_that_the_table_lacks_is_refused():
    with pytest.raises(ValueError, match=r"unknown count 'fvcore'; accepted: .*"):
        cost_figures.counts_panel(counts(), shown=["fvcore"])


def test_every_kind_has_a_colour_and_marker_of_its_own():
    looks = style.looks([*kinds("model"), *style._KNOWN])
    assert len(looks) >= 19
    assert len({(look.color, str(look.marker)) for look in looks.values()}) == len(looks)
    assert set(kinds("model")) <= set(style._KNOWN)


def test_the_first_models_keep_the_look_that_published_figures_have():
    looks = style.looks(["linear", "mlp", "self_attention", "transformer", "transformer_modern"])
    assert [look.color for look in looks.values()] == ["#56b4e9", "#de8f05", "#029e73", "#0173b2", "#d55e00"]
    assert [look.marker for look in looks.values()] == ["s", "^", "D", "o", "v"]


# ------------------------------------------------------------------ sentences


def test_the_reading_says_what_the_tables_hold():
    text = cost_reading(costs(), counts(), latency_table(rows()), memory_table(rows()))
    assert "Without a cache a token takes 64 times as long (transformer) to 64 times (transformer)." in text
    assert "from 1.00 k FLOPs (lstm) to 3.00 k (transformer), 3 times as many" in text
    assert "Element-wise work is at most 10.0% of it (ssm)" in text
    assert "Torch, CPU agrees for every model" in text
    assert "fvcore x 2 counts 0.50 to 0.50 times the closed form" in text
    assert "without a remainder" in text
    assert "At 64 tokens of context, one text at a time" in text
    assert "grows by up to 100B a token (transformer) for 1 of 3 models" in text
    assert "It stays as it is for lstm, ssm: 500B to 500B." in text


def test_a_remainder_is_said():
    assert "12 of 12 counts keep a remainder that no part explains" in counter_words(counts(unexplained=5))


def test_one_model_is_not_compared_with_itself():
    assert (
        training_words(costs()[:1])
        == "transformer, with 1,000 parameters, trains for 3.00 k FLOPs per token."
    )
    assert "for 1 of 1 models" in memory_words(memory_table(rows())[:1])
