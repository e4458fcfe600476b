"""The benchmarks run, say what they measured, and their baselines compute what lmbench computes."""

import dataclasses
import importlib
import itertools
import json
import math
import statistics
import subprocess
from collections import Counter

import numpy as np
import pytest
import torch

from benchmarks import (
    common,
    cpu_time_to_quality,
    cpu_training,
    evaluation,
    generation,
    lmbench_recipe,
    nanogpt_loop,
    notebook_start,
    ours,
    plain,
    texts,
    time_to_quality_gpu,
)
from benchmarks.until import Attempt, train_until
from lmbench.config import make
from lmbench.measure.score import evaluate
from lmbench.models.base import seeded
from lmbench.report.performance import TARGETS
from lmbench.tasks.base import View, load_task
from lmbench.tasks.examples import examples, parse
from lmbench.tasks.symbols import PAD, SYMBOLS

CPU = torch.device("cpu")
KEYS = {"name", "device", "ours", "baseline", "ratio", "ratio_min", "ratio_max", "unit", "repeats"}
TEXT = ["--text", "made_up"]
MEASURED = {
    "benchmarks.stacked_runs": [*TEXT, "--dropout"],
    "benchmarks.single_run": TEXT,
    "benchmarks.cpu_training": TEXT,
    "benchmarks.cpu_time_to_quality": TEXT,
    "benchmarks.evaluation": TEXT,
    "benchmarks.generation": [],
    "benchmarks.selective_scan": [],
}


@pytest.fixture(autouse=True)
def untouched_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def made_up():
    with texts.cut_folder("made_up", quick=True) as folder:
        yield folder


# ------------------------------------------------------------------ every script


@pytest.mark.parametrize("module", MEASURED)
def test_a_benchmark_prints_and_keeps_one_line_per_result(module, tmp_path, capsys):
    words = ["--quick", "--repeats", "2", "--threads", "1", "--device", "cpu", "--out", str(tmp_path)]
    results = importlib.import_module(module).main([*words, *MEASURED[module]])
    assert results == [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    name = module.rpartition(".")[2]
    names = [name, f"{name}_dropout"] if "--dropout" in MEASURED[module] else [name]
    assert [result["name"] for result in results] == names
    for result in results:
        check(result, repeats=2)
        path = tmp_path / f"{result['name']}-{common.slug(result['device'])}.json"
        assert json.loads(path.read_text()) == result
    assert len(list(tmp_path.iterdir())) == len(results)


def check(result, *, repeats):
    assert set(result) >= KEYS
    assert result["repeats"] == len(result["ours_each"]) == len(result["baseline_each"]) == repeats
    pairs = zip(result["ours_each"], result["baseline_each"], strict=True)
    ratios = [a / b if result["better"] == "higher" else b / a for a, b in pairs]
    assert result["ratio"] == pytest.approx(statistics.median(ratios))
    assert (result["ratio_min"], result["ratio_max"]) == pytest.approx((min(ratios), max(ratios)))
    assert result["ours"] == pytest.approx(statistics.median(result["ours_each"]))
    assert result["baseline"] == pytest.approx(statistics.median(result["baseline_each"]))
    assert result["settings"]["quick"] is True
    assert result["threads"] == 1


def test_the_time_to_quality_of_two_processes_is_theirs_from_launch_on(monkeypatch, capsys):
    asked = []

    def launch(module, arguments):
        """The process in this one: its arguments are parsed and its last line is read as by the launcher."""
        asked.append(module)
        side = {"benchmarks.lmbench_recipe": lmbench_recipe, "benchmarks.nanogpt_loop": nanogpt_loop}[module]
        attempt = side.main(arguments)
        return dataclasses.asdict(attempt) | {"wall": 2.0 if side is lmbench_recipe else 6.0}

    monkeypatch.setattr(time_to_quality_gpu, "launch", launch)
    words = ["--quick", "--repeats", "2", "--threads", "1", "--device", "cpu", *TEXT]
    (result,) = time_to_quality_gpu.main(words)
    check(result, repeats=2)
    assert (result["name"], result["ours"], result["baseline"], result["ratio"]) == (
        "time_to_quality_gpu", 2.0, 6.0, 3.0,
    )  # fmt: skip
    mine, plain_script = "benchmarks.lmbench_recipe", "benchmarks.nanogpt_loop"
    assert asked == [mine, plain_script, plain_script, mine]
    assert result["ours_reached"] == result["baseline_reached"] == [True, True]
    (best,) = time_to_quality_gpu.main([*words, "--best"])
    assert (best["name"], best["unit"], best["ours_reached"]) == ("best_within_budget", "nats", [False] * 2)
    assert best["ours_each"] == best["ours_nll"]


def test_a_launched_process_is_timed_to_the_line_of_its_result(tmp_path, monkeypatch):
    ticks = iter([100.0, 101.0, 102.5, 104.0])
    monkeypatch.setattr(time_to_quality_gpu.time, "perf_counter", lambda: next(ticks))
    (tmp_path / "side.py").write_text(
        "import json, os\n"
        "assert not os.path.exists(os.environ['TORCHINDUCTOR_CACHE_DIR'])\n"
        "for step, last in ((5, False), (10, False), (5, True)):\n"
        "    print(json.dumps({'step': step, 'nll': 2.0, 'last': last}))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert time_to_quality_gpu.launch("side", []) == {"step": 5, "nll": 2.0, "last": True, "wall": 1.0}


def test_a_launched_process_that_fails_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "side.py").write_text("raise SystemExit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        time_to_quality_gpu.launch("side", [])


def test_starting_a_notebook_runs_its_cells_up_to_the_set_up_in_a_kernel(capsys, monkeypatch):
    cells = notebook_start.start_cells("00_quickstart")
    assert 'lb.setup("00_quickstart"' in cells[-1] and len(cells) == 2
    monkeypatch.setattr(notebook_start, "start_kernel", lambda cells: 2.0)
    (result,) = notebook_start.main(["--quick", "--threads", "1", "--device", "cpu"])
    check(result, repeats=1)
    assert (result["ours"], result["baseline"], result["ratio"]) == (2.0, 4.0, 2.0)
    assert {"torch", "lmbench"} <= set(result["import_seconds"])


def test_a_kernel_that_cannot_run_a_cell_is_an_error(monkeypatch):
    with pytest.raises(RuntimeError, match="a cell failed: division by zero"):
        notebook_start.start_kernel(["x = 0", "1 / x"])


def test_import_times_are_summed_over_the_modules_of_a_package():
    told = (
        "import time: self [us] | cumulative | imported package\n"
        "import time:       100 |        100 |   torch.nn\n"
        "import time:   2000000 |    2000100 | torch\n"
        "import time:        50 |         50 | json\n"
        "some warning\n"
    )
    assert notebook_start.import_seconds(told) == pytest.approx({"torch": 2.0001, "json": 5e-5})


def test_the_generation_result_names_the_slowest_level_of_all(monkeypatch):
    tasks = {f"chain {level}": make("task", "chain", level=level) for level in range(3)}
    assert set(generation.all_levels()) >= {*tasks, "recall 0", "route 1"}
    rates = {0: iter([4.0, 2.0, 3.0]), 1: iter([6.0] * 3 + [8.0] * 3), 2: iter([0.5, 0.25, 7.0])}
    monkeypatch.setattr(generation, "all_levels", lambda: tasks)
    monkeypatch.setattr(generation, "rate", lambda task, **options: next(rates[task.level]))
    (result,) = generation.main(["--quick", "--repeats", "3"])
    check(result, repeats=3)
    assert result["levels"] == {"chain 0": 3.0, "chain 1": 6.0, "chain 2": 0.5}
    assert (result["slowest"], result["slowest_level"]) == (0.5, "chain 2")
    assert result["slowest_each"] == [0.5, 0.25, 7.0]
    assert result["ours"] == 8.0, "what the ratio compares is chain level 1"
    assert result["device"].startswith("cpu")
    with pytest.raises(ValueError, match="--examples = 0 is not accepted; it must be at least 1"):
        generation.main(["--examples", "0"])


def test_the_target_of_generation_is_for_the_slowest_level():
    target = TARGETS["generation"]
    assert target.says == "every level of every task at least 100 thousand/s"
    assert target.met({"ours": 1.0, "slowest": 100.0})
    assert not target.met({"ours": 500.0, "slowest": 99.9}) and not target.met({"ours": 500.0})


def test_a_rate_is_of_all_examples_that_were_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(generation, "examples", lambda task, **options: asked.append(options))
    monkeypatch.setattr(common, "seconds", lambda work, device: work() or 0.5)
    assert generation.rate(generation.LIKE, n=3000, device=CPU) == 6.0
    assert asked[0]["split"] == "train" and asked[0]["index_N"].tolist() == list(range(3000))


def test_the_plain_loop_makes_the_examples_of_chain_level_1_and_keeps_its_splits_apart():
    made = examples(generation.LIKE, seed=0, split="train", index_N=np.arange(300)).tokens_NT
    mine = [[token for token in row if token != PAD] for row in made.tolist()]
    forms = {}
    for split in ("train", "test"):
        rows = generation.plain_examples(300, seed=0, split=split)
        assert {len(row) for row in rows} == {len(row) for row in mine}
        assert {*itertools.chain(*rows)} == {*itertools.chain(*mine)}, "the same symbols occur"
        read = [parse([SYMBOLS[at] for at in row], surface="statement") for row in rows]
        assert all(generation.LIKE.solve(body, query) == answer for body, query, answer in read)
        # Any number of the roots, of four symbols each, may stand before the first sum.
        before = range(generation.LIKE.settings.chains + 1)
        assert {body.index("+") for body, _, _ in read} == {4 * roots + 3 for roots in before}
        forms[split] = {form_of(body, query[0]) for body, query, _ in read}
    assert not forms["train"] & forms["test"]
    shares = Counter(generation.plain_split(str(form)) for form in range(10_000))
    assert shares["train"] / 10_000 == pytest.approx(0.9, abs=0.01)  # 3 standard errors


def form_of(body, asked):
    """Root and increment of the chain that is asked for and of the others: no names, no order."""
    terms = {part[0]: part[1:] for part in " ".join(body).replace(" ", "").replace("=", "").split(";")}
    chains = {name: (terms[term[0]], term[1:]) for name, term in terms.items() if "+" in term}
    return (chains.pop(asked), *sorted(chains.values()))


# ------------------------------------------------------------------ the result


def test_a_ratio_compares_within_a_repeat_and_is_above_one_where_ours_is_better(capsys):
    one = {"name": "x", "device": "Test GPU-1", "unit": "s"}
    result = common.report(**one, ours=[1.0, 2.0, 4.0], baseline=[4.0, 4.0, 4.0], better="lower", extra=7)
    assert (result["ratio"], result["ratio_min"], result["ratio_max"]) == (2.0, 1.0, 4.0)
    assert (result["ours"], result["baseline"], result["repeats"], result["extra"]) == (2.0, 4.0, 3, 7)
    assert json.loads(capsys.readouterr().out) == result
    assert common.report(**one, ours=[1.0], baseline=[4.0], better="higher")["ratio"] == 0.25
    assert common.slug("NVIDIA H200 (141 GB)") == "nvidia-h200-141-gb"


def test_both_sides_are_timed_in_alternating_order():
    order = []
    sides = [lambda: order.append("ours") or 1.0, lambda: order.append("baseline") or 2.0]
    assert common.paired(*sides, repeats=3) == ([1.0] * 3, [2.0] * 3)
    assert order == ["ours", "baseline", "baseline", "ours", "ours", "baseline"]


@pytest.mark.parametrize(
    "ours_each, said",
    [
        ([1.0], "x: 1 measurements of ours and 2 of the baseline"),
        ([1.0, 0.0], "x: measurements must be above 0"),
    ],
)
def test_measurements_that_make_no_ratio_are_refused(ours_each, said):
    with pytest.raises(ValueError, match=said):
        common.report(name="x", device="d", ours=ours_each, baseline=[1.0, 1.0], unit="s", better="lower")


@pytest.mark.parametrize("option", ["repeats", "threads"])
def test_no_repeats_or_threads_are_refused(option):
    options = common.parser("x", repeats=3).parse_args([f"--{option}", "0"])
    with pytest.raises(ValueError, match=f"--{option} = 0 is not accepted; it must be at least 1"):
        common.settle(options)


# ------------------------------------------------------------------ fairness


@pytest.mark.parametrize("init", ["torch", "gpt2"])
def test_the_plain_model_computes_what_the_model_of_lmbench_computes(init):
    sizes = plain.STUDY if init == "torch" else plain.NANOGPT_CPU
    shape = dataclasses.replace(sizes, seq_len=8, d_model=16, d_ff=24, n_layer=2)
    model = seeded(ours.model_like(shape, init=init), init_seed=3)
    tokens_BT = torch.randint(65, (2, 8), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.plain_like(shape, model)(tokens_BT), model(tokens_BT).logits_BTV)


def test_the_plain_loop_trains_like_lmbench_in_float32(made_up):
    run = cpu_training.nanogpt_run(texts.task(made_up), steps=8, dtype="float32", quick=True)
    loop = cpu_training.plain_loop(run, cpu_training.shape_of(quick=True), device=CPU)
    program = ours.program([run], device=CPU)
    loop.advance(8)
    program.advance(8)
    torch.testing.assert_close(torch.stack(loop.losses), program.losses_SR[:, 0], rtol=1e-5, atol=1e-5)


def test_both_sides_are_scored_alike(made_up):
    shape = dataclasses.replace(plain.STUDY, seq_len=24, d_model=16, d_ff=24, n_layer=1)
    model = seeded(ours.model_like(shape), init_seed=1)
    data = load_task(texts.task(made_up))
    ids_N = ours.ids(texts.task(made_up), "valid", CPU)
    assert (len(ids_N) - 1) % 24  # the last window is a short one
    scores = evaluate(
        model,
        data,
        split="valid",
        protocol=make("protocol", "dense", stride=24),
        view=View(seq_len=24, is_window=False, device=CPU),
    )
    nll, n = scores.metrics["nll"]
    assert n == len(ids_N) - 1
    assert plain.score(ours.plain_like(shape, model), ids_N, seq_len=24) == pytest.approx(nll, abs=1e-6)


def test_one_window_per_target_gives_every_target_all_tokens_before_it():
    shape = dataclasses.replace(plain.STUDY, seq_len=4, d_model=16, d_ff=24, n_layer=1)
    model = plain.GPT(shape).eval()
    ids_N = torch.randint(65, (100,), generator=torch.Generator().manual_seed(0))
    losses = evaluation.one_window_per_target(model, ids_N, first=4, count=90)
    assert losses.shape == (90,)
    logits_V = model(ids_N[None, 73:77])[0, -1]
    expected = torch.nn.functional.cross_entropy(logits_V, ids_N[77])
    assert losses[77 - 4].item() == pytest.approx(expected.item(), abs=1e-6)


def test_the_sizes_of_nanogpt_are_those_that_it_prints():
    counted = {
        name: sum(p.numel() for p in plain.GPT(shape).parameters())
        for name, shape in (("gpu", plain.NANOGPT_GPU), ("cpu", plain.NANOGPT_CPU), ("study", plain.STUDY))
    }
    # With the position table, which nanoGPT's own count leaves out.
    assert counted == {"gpu": 10_745_088, "cpu": 804_096, "study": 430_785}


def test_the_learning_rate_of_nanogpt_rises_for_100_steps_and_ends_at_a_tenth():
    recipe = plain.NANOGPT_CPU_RECIPE
    assert recipe.lr_at(0) == pytest.approx(1e-3 / 101)
    assert recipe.lr_at(100) == pytest.approx(1e-3)
    assert recipe.lr_at(1050) == pytest.approx((1e-3 + 1e-4) / 2)
    assert recipe.lr_at(2000) == pytest.approx(1e-4)


def test_nanogpt_starts_narrower_where_it_writes_to_the_residual_stream():
    torch.manual_seed(0)
    model = plain.nanogpt_weights(plain.GPT(plain.NANOGPT_CPU))
    block = model.blocks[0]
    assert block.up.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert block.down.weight.std().item() == pytest.approx(0.02 / math.sqrt(8), rel=0.02)
    assert model(torch.zeros(1, 4, dtype=torch.int64)).std().item() < 1


def test_the_plain_script_and_lmbench_read_the_same_ids(made_up):
    train_N, valid_N = nanogpt_loop.encode(made_up)
    data = load_task(texts.task(made_up))
    assert train_N.tolist() == data.splits["train"].ids_N.tolist()
    assert valid_N.tolist() == data.splits["valid"].ids_N.tolist()
    assert (len(train_N), len(valid_N)) == (18_000, 2_000)


def test_another_text_than_tiny_shakespeare_is_refused(monkeypatch, task):
    monkeypatch.setattr(texts, "load_corpus", lambda name: load_task(task).corpus)
    with pytest.raises(ValueError, match="the joined splits of tiny_shakespeare have sha256:"):
        texts.read("tiny_shakespeare")


# ------------------------------------------------------------------ training until


def walk(scores, **options):
    """`train_until` on a list of scores, one for each ten steps."""
    done, left = [], list(scores)
    attempt = train_until(
        done.append,
        lambda: left.pop(0),
        score_at=range(10, 10 * len(scores) + 1, 10),
        device=CPU,
        **options,
    )
    return attempt, done


def test_training_stops_at_the_score_that_reaches_the_target():
    attempt, done = walk([3.0, 2.0, 1.5, 1.0], target=1.5)
    assert (attempt.reached, attempt.step, attempt.nll) == (True, 30, 1.5)
    assert done == [1, 9, 10, 10]


def test_a_target_that_is_not_reached_leaves_the_best_score():
    attempt, _ = walk([3.0, 2.0, 2.5, 2.2], target=1.0)
    assert (attempt.reached, attempt.step, attempt.nll) == (False, 20, 2.0)


def test_patience_ends_a_training_that_gets_worse():
    attempt, done = walk([3.0, 2.0, 2.5, 2.2, 1.0], target=1.0, patience=2)
    assert (attempt.reached, attempt.step) == (False, 20)
    assert sum(done) == 40


def test_a_recipe_of_ours_that_misses_the_target_is_no_result(monkeypatch):
    missed = Attempt(reached=False, step=7, nll=1.9, first_seconds=1.0, seconds=2.0)
    monkeypatch.setattr(cpu_time_to_quality, "train_until", lambda *arguments, **options: missed)
    with pytest.raises(
        ValueError, match=r"did not reach 100.0 nats in 1 of 1 runs; its best was 1.9000 at step 7"
    ):
        cpu_time_to_quality.main(["--quick", "--repeats", "1", "--threads", "1", *TEXT])


def test_a_recipe_beyond_the_budget_is_refused(monkeypatch):
    monkeypatch.setattr(time_to_quality_gpu, "NANOGPT_FLOPS", 1e3)
    with pytest.raises(ValueError, match=r"training FLOPs; --best allows 1000"):
        time_to_quality_gpu.main(["--quick", "--best", "--threads", "1", "--device", "cpu", *TEXT])
