"""Fronts of loss against bytes, seconds and FLOPs, on points small enough to see the answer."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from lmbench.analysis.front_panel import LOOKS, front_panel
from lmbench.analysis.fronts import fastest, front_areas, front_points, front_sentences, front_table
from lmbench.analysis.stats import paired_differences

LOSS = "packed_bits_per_byte"


def files(**arms):
    """One row an arm and seed; an arm is (bytes, losses of its seeds)."""
    rows = [
        (label.replace("_", " "), seed, size, loss)
        for label, (size, losses) in arms.items()
        for seed, loss in enumerate(losses)
    ]
    return pd.DataFrame(rows, columns=["label", "init_seed", "bytes", LOSS])


def timings(**arms):
    """Two timings each of (form, batch, seconds)."""
    rows = [
        (label, form, batch, seconds * factor)
        for label, forms in arms.items()
        for form, batch, seconds in forms
        for factor in (0.5, 2.0)
    ]
    return pd.DataFrame(rows, columns=["label", "form", "batch", "seconds"])


FILES = files(
    teacher=(4000, [1.0, 1.1]), hard=(1000, [2.0, 2.1]), Q=(250, [2.2, 1.8]), P=(300, [2.5, 2.6]),
    joint=(100, [3.0, 3.1]),
)  # fmt: skip
TIMES = timings(
    teacher=[("float32", 1, 8.0)],
    hard=[("float32", 1, 2.0), ("float32", 64, 9.0)],
    Q=[("float32", 1, 2.0), ("int8 dynamic", 1, 1.0)],
    P=[("float32", 1, 2.0), ("csr", 1, 0.5)],
    joint=[("csr", 1, 0.5)],
)


def test_an_arms_time_is_that_of_its_fastest_form_and_a_geometric_mean():
    table = fastest(TIMES)
    assert table["form"].to_dict() == {
        "teacher": "float32", "hard": "float32", "Q": "int8 dynamic", "P": "csr", "joint": "csr",
    }  # fmt: skip
    assert table["seconds"]["Q"] == pytest.approx(1.0)
    assert fastest(TIMES, batch=64)["seconds"].to_dict() == pytest.approx({"hard": 9.0})
    with pytest.raises(ValueError, match="unknown batch '32'; accepted: 1, 64"):
        fastest(TIMES, batch=32)


def test_points_take_costs_from_runs_by_seed_and_times_by_arm():
    runs = FILES[["label", "init_seed"]].assign(train_flops=7.0, all_flops=range(len(FILES)))
    points = front_points(FILES, runs=runs, latency=TIMES)
    assert points["family"].tolist()[::2] == [
        "teacher", "dense student", "factorial cell", "factorial cell", "joint or in sequence",
    ]  # fmt: skip
    assert points["all_flops"].tolist() == list(range(len(FILES)))
    alone = runs.assign(all_flops=float("nan"))
    # Without a teacher, its own FLOPs are all that an arm takes.
    assert front_points(FILES, runs=alone)["all_flops"].tolist() == [7.0] * len(FILES)
    counted = alone.assign(optimizer_flops=1.0)
    assert front_points(FILES, runs=counted)["all_flops"].tolist() == [8.0] * len(FILES)
    # That int8 is faster says nothing here: it computes another model, with another loss.
    assert points["seconds"].tolist()[::2] == pytest.approx([8.0, 2.0, 2.0, 0.5, 0.5])


def test_the_front_is_made_of_means_and_counts_the_seeds_that_agree():
    table = front_table(FILES, costs=["bytes"]).set_index("label")
    assert table["on the front of bytes"].to_dict() == {
        "teacher": True, "hard": False, "Q": True, "P": False, "joint": True,
    }  # fmt: skip
    # In seed 0 hard is better than Q, in seed 1 worse and dearer.
    assert table["seeds on it (bytes)"].to_dict() == {"teacher": 2, "hard": 1, "Q": 2, "P": 0, "joint": 2}
    assert table.loc["Q", ["mean", "n"]].tolist() == pytest.approx([2.0, 2])


def test_in_bytes_and_seconds_together_an_arm_needs_only_one_of_them_to_stay():
    table = front_table(front_points(FILES, latency=TIMES)).set_index("label")
    # P is on no front of bytes, but as fast as joint and better; hard is beaten by Q in all three.
    assert not table.loc["P", "on the front of bytes"]
    assert table["on all together"].to_dict() == {
        "teacher": True, "hard": False, "Q": True, "P": True, "joint": True,
    }  # fmt: skip


def test_an_arm_without_a_time_is_on_no_front_of_seconds():
    points = front_points(FILES, latency=TIMES[TIMES["label"] != "joint"])
    table = front_table(points).set_index("label")
    assert math.isnan(table.loc["joint", "seconds"])
    assert table.loc["joint", "on the front of bytes"]
    assert not table.loc["joint", ["on the front of seconds", "on all together"]].any()


def test_areas_are_those_left_behind_a_front_in_powers_of_ten():
    frame = files(joint=(100, [2.0]), prune_then_quantize=(1000, [2.5]), hard=(10_000, [3.0]))
    groups = {"joint": ["joint"], "in sequence": ["prune then quantize"]}
    areas = front_areas(frame, groups=groups).set_index("label")["area"]
    # The corner is (10^4, 3): two powers of ten times 1, and one times 0.5.
    assert areas.to_dict() == pytest.approx({"joint": 2.0, "in sequence": 0.5})
    both = front_areas(frame, groups={"both": ["joint", "hard"]})["area"][0]
    assert both == pytest.approx(2.0)


def test_a_front_of_two_steps_adds_its_rectangles():
    frame = files(joint=(10, [2.0]), hard=(100, [1.0]), teacher=(1000, [3.0]))
    area = front_areas(frame, groups={"both": ["joint", "hard"]})["area"][0]
    assert area == pytest.approx(1 * (3 - 2) + 1 * (3 - 1))


def test_areas_of_seeds_are_compared_in_pairs():
    areas = front_areas(FILES, groups={"Q": ["Q"], "P": ["P"]})
    pair = paired_differences(areas, group="label", unit="init_seed", value="area").iloc[0]
    assert (pair["a"], pair["n"]) == ("Q", 2)
    assert pair["difference"] > 0


def test_a_group_without_points_is_refused():
    with pytest.raises(ValueError, match="group 'joint' has no points: prune then quantize were not run"):
        front_areas(FILES, groups={"joint": ["prune then quantize"]})


def test_times_of_two_machines_and_losses_that_are_not_finite_are_refused():
    two = TIMES.assign(device=["cpu", "gpu"] * (len(TIMES) // 2))
    with pytest.raises(ValueError, match="cannot be compared over several devices"):
        fastest(two)
    with pytest.raises(ValueError, match="are not finite"):
        front_table(FILES.assign(**{LOSS: np.nan}), costs=["bytes"])
    with pytest.raises(ValueError, match="bytes = 0 is no cost; costs are above 0"):
        front_table(FILES.assign(bytes=0), costs=["bytes"])


def test_sentences_list_the_front_from_cheap_to_dear_with_seeds():
    said = front_sentences(front_table(FILES, costs=["bytes"]))
    assert len(said) == 1
    places = [said[0].index(name) for name in ("joint ", "Q ", "teacher ")]
    assert places == sorted(places)
    assert "in 2 of 2 seeds" in said[0]
    assert "hard" not in said[0]


def test_every_family_has_a_colour_of_its_own():
    assert len({look.color for look in LOOKS.values()}) == len({look.marker for look in LOOKS.values()}) == 10


def test_the_figure_numbers_the_front_and_names_it_in_the_caption():
    fig = front_panel(front_points(FILES, latency=TIMES))
    assert [ax.get_xscale() for ax in fig.axes] == ["log", "log"]
    assert fig.axes[0].get_xlabel() == "packed file (bytes)"
    assert "On a front: 1 joint, 2 Q, " in fig.caption
    assert "2 seeds, bars 95% t intervals" in fig.caption
    colours = {line.get_color() for line in fig.axes[0].lines}
    assert LOOKS["factorial cell"].color in colours
    assert fig.png(dpi=50) == front_panel(front_points(FILES, latency=TIMES)).png(dpi=50)


def test_one_seed_makes_a_front_without_intervals():
    one = FILES[FILES["init_seed"] == 0]
    assert front_table(one, costs=["bytes"])["low"].isna().all()
    assert "bars" not in front_panel(one, costs=["bytes"]).caption


def test_numbers_of_a_crowded_front_do_not_lie_upon_each_other():
    arms = {f"bits={at} qat": (1000 * 1.1**at, [2.0 - 0.02 * at]) for at in range(1, 7)}
    fig = front_panel(front_points(files(**arms, teacher=(10**8, [1.0]))), costs=("bytes",))
    fig.canvas.draw()
    numbers = fig.axes[0].texts
    boxes = [text.get_window_extent() for text in numbers]
    assert len(boxes) == 7
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    ax = fig.axes[0]
    assert all(box.y0 > ax.get_window_extent().y0 for box in boxes), "below the axis"
    # The axis is that of the data, and what stands further from its marker has a line to it.
    low, high = ax.get_ylim()
    assert 1.0 - low < 0.15 * (high - low)
    apart = [math.hypot(*text.xyann) for text in numbers]
    assert [text.arrow_patch is not None for text in numbers] == [distance > 9 for distance in apart]
