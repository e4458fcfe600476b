"""The engine on a GPU: captured, stacked, compiled and killed steps give what plain ones give.

Nothing here runs without a CUDA device. Measured deviations go to the log of each test.
"""

import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lmbench.config import discover, make
from lmbench.models.base import seeded
from lmbench.store import Store
from lmbench.training import grouping
from lmbench.training.execute import run_all
from lmbench.training.loop import train, train_group
from lmbench.training.program import Program
from tests.methods_at_work import NAMES, at_work
from tests.test_capabilities import points, tracked_run
from tests.test_groups import three, tiny_run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
WIDE = {"seq_len": 64, "d_model": 64, "n_head": 2, "n_layer": 2, "d_ff": 128}  # heads that kernels accept
MODELS = sorted(discover("model"))
# After a kill the weights differ by no more than this part of their norm: sums over a batch are
# added in an order that two processes need not share.
RESUMED = 1e-5
TRAIN = """
import json, sys
from lmbench.config import from_dict
from lmbench.store import Store
from lmbench.training.execute import run_all
runs = [from_dict("run", run) for run in json.loads(open(sys.argv[1]).read())]
run_all(runs, store=Store(sys.argv[2]), device="cuda", progress=False, checkpoint_seconds=0)
"""


def advanced(runs, *, steps, device="cuda", compiled=False):
    program = Program(runs, device=torch.device(device), compiled=compiled)
    program.advance(steps)
    return program


def furthest(one, other):
    """Largest difference between two tensors, on the CPU."""
    return (one.cpu().double() - other.cpu().double()).abs().max().item()


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-4), ("bfloat16", 3e-2)])
@pytest.mark.parametrize("model", MODELS)
def test_a_group_is_as_its_runs_alone(model, dtype, tolerance, task):
    runs = three(tiny_run(task, model, options=WIDE, dtype=dtype, schedule="constant"))
    group = advanced(runs, steps=5)
    for at, run in enumerate(runs):
        alone = advanced([run], steps=5)
        apart = furthest(group.losses_SR[:5, at], alone.losses_SR[:5, 0])
        log.warning("%s %s: losses of five steps differ by %.1e", model, dtype, apart)
        assert apart < tolerance


@pytest.mark.parametrize("model", MODELS)
def test_first_gradients_of_a_group_are_those_alone_to_rounding(model, task):
    runs = three(tiny_run(task, model, options=WIDE, dtype="float32", grad_clip=None))
    group = advanced(runs, steps=1)
    for at, run in enumerate(runs):
        alone = advanced([run], steps=1).grads_RP[0]
        apart = ((group.grads_RP[at] - alone).norm() / alone.norm()).item()
        log.warning("%s: gradients differ by %.1e of their norm", model, apart)
        assert apart < 1e-5


@pytest.mark.parametrize("model", MODELS)
def test_captured_steps_and_scores_are_those_of_a_cpu(model, task):
    """Dropout is off: its masks on the two devices are of different generators."""
    options = WIDE | ({"dropout": 0.0} if "dropout" in discover("model")[model].model_fields else {})
    run = tiny_run(task, model, options=options, dtype="float32", schedule="constant")
    gpu, cpu = advanced([run], steps=6), advanced([run], steps=6, device="cpu")  # the last two replay
    assert furthest(gpu.losses_SR[:6], cpu.losses_SR[:6]) < 1e-4
    for _ in range(5):  # the scorer's graph is captured at the fourth call
        found = gpu.scores("valid")[0].metrics["nll"][0]
    same_weights = cpu.scores("valid", weights_RP=gpu.weights_RP.cpu())
    assert abs(found - same_weights[0].metrics["nll"][0]) < 1e-5


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:TensorFloat32:UserWarning")
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-4), ("bfloat16", 3e-2)])
def test_compiled_steps_are_as_others(dtype, tolerance, task):
    runs = three(tiny_run(task, options=WIDE, dtype=dtype, schedule="constant"))
    plain, compiled = (advanced(runs, steps=5, compiled=value) for value in (False, True))
    assert furthest(plain.losses_SR[:5], compiled.losses_SR[:5]) < tolerance


def test_tracked_points_of_a_captured_group_are_those_of_runs_alone_on_a_cpu():
    runs = [tracked_run(dtype="float32", steps=12).with_seed(seed) for seed in range(3)]
    group = train_group(runs, device=torch.device("cuda"))
    for run, member in zip(runs, group, strict=True):
        alone, mine = (points(one) for one in (train(run, device=torch.device("cpu")), member))
        assert mine[["step", "task", "level", "metric"]].equals(alone[["step", "task", "level", "metric"]])
        apart = (mine["value"] - alone["value"]).abs().max()
        log.warning("tracked points differ by %.1e", apart)
        assert apart < 5e-3  # a score of 1,000 examples moves by 0.001 where two logits nearly tie


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_killed_process_is_followed_by_the_same_run(dtype, task, tmp_path):
    run = tiny_run(task, options=WIDE, dtype=dtype, steps=1500, eval_every=500, ema=0.9)
    runs = [run.with_seed(seed) for seed in range(3)]
    (tmp_path / "runs.json").write_text(json.dumps([one.to_dict() for one in runs]))
    whole, killed = Store(tmp_path / "whole"), Store(tmp_path / "killed")
    run_all(runs, store=whole, device="cuda", progress=False)
    command = [sys.executable, "-c", TRAIN, str(tmp_path / "runs.json"), str(killed.root)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        give_up = time.monotonic() + 120
        while not list(killed.root.glob("checkpoints/*/state.safetensors")) and time.monotonic() < give_up:
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not list(killed.root.glob("runs/*/done"))
    assert list(killed.root.glob("checkpoints/*/state.safetensors")), "it was killed before its first"
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    assert killed.verify() == [] and list(killed.checkpoints.iterdir()) == []
    for one in runs:
        weights = [load_file(store.weights(one.digest)) for store in (whole, killed)]
        assert weights[0].keys() == weights[1].keys()
        apart = sum((weights[0][n] - weights[1][n]).norm() ** 2 for n in weights[0]).sqrt()
        part = (apart / sum(value.norm() ** 2 for value in weights[0].values()).sqrt()).item()
        log.warning("%s: weights after a kill differ by %.1e of their norm", dtype, part)
        assert part < RESUMED


# ------------------------------------------------------------------ methods


def method_run(task, name):
    """A run with the methods of that name, and the weights of their teacher."""
    sizes = WIDE | {"n_head": 4, "seq_len": 16, "dropout": 0.0}
    run = tiny_run(task, "transformer_prenorm", options=sizes, dtype="float32", steps=12, schedule="constant")
    teacher = run.replace(steps=1).with_seed(9)
    weights = {teacher.digest: seeded(teacher.model, init_seed=5).state_dict()}
    return run.replace(methods=at_work(teacher)[name], weights="final"), weights


@pytest.mark.parametrize("name", NAMES)
def test_captured_steps_with_methods_are_those_of_a_cpu(name, task):
    run, weights = method_run(task, name)
    on = {}
    for device in ("cpu", "cuda"):
        program = Program([run], device=torch.device(device), teachers=weights)
        program.advance(run.steps)
        on[device] = program.losses_SR.cpu()
    apart = furthest(on["cuda"], on["cpu"])
    log.warning("%s: losses of twelve steps differ by %.1e from a CPU's", name, apart)
    assert apart < 5e-3  # a weight on the edge of two codes, or of a mask, may fall on the other side


@pytest.mark.parametrize("name", NAMES)
def test_a_group_with_methods_is_as_its_runs_alone(name, task):
    run, weights = method_run(task, name)
    if grouping.alone(run):
        pytest.skip(grouping.alone(run))
    runs = [run, run.with_seed(3)]
    group = Program(runs, device=torch.device("cuda"), teachers=weights)
    group.advance(run.steps)
    for at, one in enumerate(runs):
        alone = Program([one], device=torch.device("cuda"), teachers=weights)
        alone.advance(run.steps)
        apart = furthest(group.losses_SR[:, at], alone.losses_SR[:, 0])
        log.warning("%s: losses of twelve steps of a group differ by %.1e", name, apart)
        assert apart < 5e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_kernel_looks_across_the_border_of_a_segment(dtype, task):
    # Shapes that the kernels of short and of long sequences accept, which know no borders.
    for seq_len in (64, 1024):
        sizes = {**WIDE, "seq_len": seq_len, "vocab_size": 65, "dropout": 0.0}
        model = seeded(make("model", "transformer_nanogpt", **sizes), init_seed=0).to("cuda", dtype)
        ids = torch.arange(2 * seq_len, device="cuda").view(2, seq_len) % 65
        segment_BT = torch.zeros_like(ids)
        segment_BT[:, seq_len // 2 :] = seq_len // 2
        other = ids.clone()
        other[:, 3] = 7
        one, two = (model(x, segment_BT=segment_BT).logits_BTV.float() for x in (ids, other))
        assert torch.equal(one[:, seq_len // 2 :], two[:, seq_len // 2 :])
        assert not torch.equal(one[:, 3 : seq_len // 2], two[:, 3 : seq_len // 2])
        alone = torch.cat([model(part).logits_BTV.float() for part in ids.chunk(2, dim=1)], dim=1)
        assert furthest(one, alone) < (1e-4 if dtype is torch.float32 else 0.1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:TensorFloat32:UserWarning")
@pytest.mark.parametrize("compiled", [False, True])
def test_divided_rows_in_a_captured_group_are_those_of_a_cpu(compiled, task):
    packed = make("method", "select_random", piece=20, packing="masked", share=0.5)
    how = {"dtype": "float32", "schedule": "constant", "methods": (packed,)}
    runs = three(tiny_run(task, options=WIDE | {"dropout": 0.0}, **how))
    on_cpu = advanced(runs, steps=6, device="cpu")
    on_gpu = advanced(runs, steps=6, compiled=compiled)
    assert furthest(on_gpu.losses_SR[:6].cpu(), on_cpu.losses_SR[:6]) < 1e-4


def test_sliced_widths_are_a_captured_graph_each(task):
    run, _ = method_run(task, "constrain_slice")
    program = Program([run.replace(steps=60)], device=torch.device("cuda"))
    program.advance(60)
    assert len(program.execution.steps) > 2 and bool(torch.isfinite(program.losses_SR).all())
