"""One run on two processes equals the run on one, and rank 0 alone decides and writes."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import two_gpus
from lmbench import cli
from lmbench.config import make
from lmbench.layers.slices import SlicedPass
from lmbench.measure.flops import parameters
from lmbench.run import Run
from lmbench.store import Store
from lmbench.training import program as program_module
from lmbench.training.checkpoint import Checkpoint
from lmbench.training.distributed import ALONE, Ranks
from lmbench.training.execute import fit_model, run_all
from lmbench.training.loop import train, train_group
from lmbench.training.program import Program
from lmbench.training.torchrun import joined, own_device
from tests.corpora import write_corpus

CPU = torch.device("cpu")
KILLED_AT = 7


def task_in(folder):
    return make("task", "text", corpus=str(folder / "small"), tokenizer="char")


def tiny(folder, **fields):
    """A run in float64 of 20 steps, 8 sequences each, with clipping and two validations."""
    task = task_in(folder)
    sizes = {"seq_len": 8, "d_model": 16, "n_head": 2, "d_ff": 16, "n_layer": 2}
    model = make("model", "transformer", **sizes, dropout=fields.pop("dropout", 0.0))
    settings = {"steps": 20, "batch_size": 8, "eval_every": 10, "dtype": "float64"} | fields
    return Run(model=fit_model(model, task), task=task, **settings)


def sliced(folder):
    """A run whose passes are of three widths in turn."""
    method = make("method", "constrain", curve={"kind": "staircase", "levels": [0.0, 0.5, 0.3]})
    method = method.replace(execution="slice")
    return tiny(folder, steps=6, eval_every=3, methods=(method,))


def packed(folder):
    """A run whose rows hold several documents, kept apart."""
    method = make("method", "select_random", piece=4, packing="masked", share=0.5)
    return tiny(folder, steps=6, eval_every=3, methods=(method,))


def runs_of(folder):
    """name -> a run on two processes, the run on one process that it must equal."""
    plain = tiny(folder)
    accumulated, short = plain.replace(grad_accum=2), plain.replace(steps=8, eval_every=4)
    epochs, dropped = short.replace(epoch_windows=11), tiny(folder, dropout=0.3, steps=8, eval_every=4)
    muon = short.replace(optimizer=make("optimizer", "muon"), ema=0.9, grad_clip=None)
    return {
        "plain": (plain, plain),
        "accumulated": (accumulated, accumulated),
        "epochs": (epochs, epochs),  # the second process gets no target of an epoch's last batch
        "muon": (muon, muon),
        "dropout": (dropped, dropped.replace(grad_accum=2)),
        "sliced": (sliced(folder), sliced(folder)),
        "packed": (packed(folder), packed(folder)),
        "diverging": (plain.replace(optimizer=make("optimizer", "sgd", lr=1e200)),) * 2,
    }


# ------------------------------------------------------------------ what each of two processes does


def work(rank, folder, port):
    """Everything that needs two processes, in one start of them; each writes down what it found."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    place |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    torch.set_num_threads(1)
    with joined(CPU) as ranks:
        said = {"trained": {name: train_shared(run, ranks, folder / name)
                            for name, (run, _) in runs_of(folder).items()}}  # fmt: skip
        said["gradient"] = first_gradient(runs_of(folder)["accumulated"][0], ranks).tolist()
        # What is compiled matters here, not what it is compiled to, which takes half a minute.
        program_module.compile_if = lambda do, part: torch.compile(part, backend="eager") if do else part
        said["compiled"] = losses(tiny(folder, steps=3), ranks=ranks, compiled=True)
        said["bfloat16"] = losses(tiny(folder, steps=3, dtype="bfloat16"), ranks=ranks)
        # So high a rate that the first validation stays the best one.
        steep = {"optimizer": make("optimizer", "sgd", lr=5.0), "schedule": make("schedule", "constant")}
        said["sliced"] = sliced_passes(sliced(folder), ranks)
        said["resumed"] = resume(tiny(folder, steps=10, eval_every=5, **steep), ranks, folder)
        said["refused"] = refusals(ranks, folder)
        said |= store_twice(tiny(folder, steps=2), ranks, folder)
    (folder / f"said-{rank}.json").write_text(json.dumps(said))


def train_shared(run, ranks, path):
    """Train; rank 0 keeps the weights. Returns what both of them know."""
    (trained,) = train_group([run], device=CPU, ranks=ranks)
    if ranks.is_first and trained.final:
        save_file(trained.final, f"{path}.final")
        save_file(trained.best, f"{path}.best")
    rows = [[row[key] for key in ("step", "split", "metric", "value")] for row in trained.record.rows]
    return {"rows": rows, "engine": trained.record.engine, "diverged_at": trained.diverged_at}


def losses(run, *, ranks=ALONE, compiled=False):
    program = Program([run], device=CPU, compiled=compiled, ranks=ranks)
    program.advance(run.steps)
    return program.losses_SR[:, 0].tolist()


def sliced_passes(run, ranks):
    """How many training passes are of a slice."""
    passes, forward = [], SlicedPass.forward

    def counted(self, *inputs, **how):
        passes.append(self.widths)
        return forward(self, *inputs, **how)

    SlicedPass.forward = counted
    try:
        losses(run, ranks=ranks)
    finally:
        SlicedPass.forward = forward
    return len(passes)


def first_gradient(run, ranks=ALONE):
    """Gradient of step 1, not clipped."""
    program = Program([run.replace(grad_clip=None)], device=CPU, ranks=ranks)
    program.advance(1)
    return program.grads_RP[0]


def resume(run, ranks, folder):
    """Stop at a step with a checkpoint of the one before it, then the same again: equal bits?"""
    checkpoint = Checkpoint(folder / "checkpoints", [run.digest], every_seconds=0) if ranks.is_first else None
    steps = []

    def stop(step):
        if step == KILLED_AT:
            raise KeyboardInterrupt

    try:
        train_group([run], device=CPU, checkpoint=checkpoint, on_step=stop, ranks=ranks)
    except KeyboardInterrupt:
        steps.append("killed")
    (again,) = train_group([run], device=CPU, checkpoint=checkpoint, on_step=steps.append, ranks=ranks)
    (whole,) = train_group([run], device=CPU, ranks=ranks)
    same = all(torch.equal(again.final[name], whole.final[name]) for name in whole.final)
    values = [[row["value"] for row in one.record.rows[:10]] for one in (again, whole)]
    moved = any(not torch.equal(whole.best[name], whole.final[name]) for name in whole.best)
    return {"steps": steps, "same": same and values[0] == values[1], "best_is_earlier": moved}


def refusals(ranks, folder):
    """The messages of what must fail on both processes together."""

    def fail():
        raise OSError("no room")

    tries = {
        "first": lambda: ranks.first(fail),
        "equal": lambda: ranks.check_equal(torch.tensor([1.0, ranks.rank]), step=3),
        "share": lambda: train_group([tiny(folder, batch_size=7)], device=CPU, ranks=ranks),
        "drift": lambda: drift(tiny(folder, steps=2), ranks),
        "jobs": lambda: run_all([tiny(folder)], store=Store(folder / "none"), jobs=2, ranks=ranks),
    }
    said = {}
    for name, attempt in tries.items():
        try:
            attempt()
        except (ValueError, RuntimeError, OSError) as error:
            said[name] = str(error)
    ranks.check_equal(torch.tensor([1.0, 2.0]), step=3)
    return said


def drift(run, ranks):
    """Train while something changes the weights of one process."""
    step = Program._one_step

    def step_and_drift(self):
        step(self)
        self.replicas.master_RP[0, 0] += ranks.rank

    Program._one_step = step_and_drift
    try:
        train_group([run], device=CPU, ranks=ranks)
    finally:
        Program._one_step = step


def store_twice(run, ranks, folder):
    """Two calls on one store: folders written by rank 0, then read."""
    wrote = count_calls(
        (Checkpoint, "write"), (Checkpoint, "remove"), (Store, "finish"), (Store, "write_index")
    )
    how = {"store": Store(folder / "results"), "device": "cpu", "progress": False, "ranks": ranks}
    first = run_all([run, run.with_seed(1)], checkpoint_seconds=0, **how)
    runs = Store(folder / "results").runs
    stamps = [path.stat().st_mtime_ns for path in sorted(runs.glob("*/done"))]
    second = run_all([run, run.with_seed(1)], **how)
    again = [path.stat().st_mtime_ns for path in sorted(runs.glob("*/done"))]
    return {"read": first.equals(second) and stamps == again, "stored": len(stamps), "wrote": wrote}


def count_calls(*methods):
    """Calls of each method from now on, by name."""
    counts = {}

    def counted(name, method):
        def call(self, *arguments, **options):
            counts[name] = counts.get(name, 0) + 1
            return method(self, *arguments, **options)

        return call

    for owner, name in methods:
        setattr(owner, name, counted(f"{owner.__name__}.{name}", getattr(owner, name)))
    return counts


# ------------------------------------------------------------------ the same on one process


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """(folder, what rank 0 said, what rank 1 said)."""
    folder = tmp_path_factory.mktemp("shared")
    write_corpus(folder / "small")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, args=(folder, port), nprocs=2)
    return folder, *(json.loads((folder / f"said-{rank}.json").read_text()) for rank in (0, 1))


@pytest.mark.parametrize("name", ["plain", "accumulated", "epochs", "muon", "dropout", "sliced", "packed"])
def test_two_processes_train_what_one_does(shared, name):
    folder, first, second = shared
    expected = train(runs_of(folder)[name][1], device=CPU)
    for kind, state in (("final", expected.final), ("best", expected.best)):
        found = load_file(folder / f"{name}.{kind}")
        assert found.keys() == state.keys()
        for key, value in state.items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=1e-8)
    rows = [[row[key] for key in ("step", "split", "metric", "value")] for row in expected.record.rows]
    scores = [row for row in rows if row[1]]  # the others are costs, of which some are seconds
    assert {row[2] for row in scores} >= {"loss", "nll", "accuracy"}
    for told in (first, second):
        found = [row for row in told["trained"][name]["rows"] if row[1]]
        assert [row[:3] for row in found] == [row[:3] for row in scores]
        assert [row[3] for row in found] == pytest.approx([row[3] for row in scores], rel=0, abs=1e-8)


def test_two_processes_have_the_gradient_of_one(shared):
    folder, first, second = shared
    expected = first_gradient(runs_of(folder)["accumulated"][1])
    assert expected.norm() > 0.1
    torch.testing.assert_close(
        torch.tensor(first["gradient"], dtype=torch.float64), expected, rtol=0, atol=1e-10
    )
    assert first["gradient"] == second["gradient"]


def test_compiled_passes_are_shared_too(shared):
    folder, first, second = shared
    assert first["compiled"] == second["compiled"]
    assert first["compiled"] == pytest.approx(losses(tiny(folder, steps=3)), rel=0, abs=1e-8)


def test_slices_are_executed_as_slices_by_both(shared):
    assert [told["sliced"] for told in shared[1:]] == [6, 6]


def test_bfloat16_gradients_are_averaged(shared):
    folder, first, second = shared
    assert first["bfloat16"] == second["bfloat16"]
    assert first["bfloat16"] == pytest.approx(losses(tiny(folder, steps=3, dtype="bfloat16")), abs=0.02)


def test_a_run_that_diverges_stops_on_both_at_the_step_of_one(shared):
    folder, first, second = shared
    expected = train(runs_of(folder)["diverging"][1], device=CPU).diverged_at
    assert expected is not None
    assert [told["trained"]["diverging"]["diverged_at"] for told in (first, second)] == [expected] * 2


def test_a_killed_run_goes_on_from_the_checkpoint_of_rank_0_to_the_same_bits(shared):
    for told in shared[1:]:
        assert told["resumed"]["steps"] == ["killed", *range(KILLED_AT, 11)]
        assert told["resumed"]["same"]
    # Rank 1 files nothing, so it has no weights to compare.
    assert [told["resumed"]["best_is_earlier"] for told in shared[1:]] == [True, False]


def test_rank_0_writes_and_both_read(shared):
    folder, first, second = shared
    assert (first["read"], second["read"], first["stored"]) == (True, True, 2)
    assert first["wrote"].keys() == {
        "Checkpoint.write", "Checkpoint.remove", "Store.finish", "Store.write_index",
    }  # fmt: skip
    assert (first["wrote"]["Store.finish"], second["wrote"]) == (2, {})
    store = Store(folder / "results")
    assert store.verify() == []
    assert not list(store.checkpoints.glob("*/*"))
    for digest in store.digests():
        env = store.record(digest)["env"]
        assert (env["ranks"], env["jobs"], env["engine"]) == (2, 1, "plain, ddp x2")
        assert env["device"].startswith("cpu")


def test_what_fails_fails_on_both(shared):
    _, first, second = shared
    assert (first["refused"]["first"], second["refused"]["first"]) == ("no room", "rank 0 stopped: no room")
    same = first["refused"].keys() - {"first"}
    assert all(first["refused"][name] == second["refused"][name] for name in same)
    assert first["refused"]["equal"].startswith(
        "after step 3 the weights of rank 1 differ from those of rank 0"
    )
    assert first["refused"]["drift"].startswith("after step 2 the weights of rank 1 differ")
    assert first["refused"]["share"] == (
        "batch_size = 7 cannot be shared by 2 processes: it must be a multiple of 2, "
        "the processes times grad_accum = 1"
    )
    assert first["refused"]["jobs"].startswith("jobs = 2 is not accepted under torchrun")


# ------------------------------------------------------------------ the command line


def torchrun(home, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, "-m", "lmbench", "train", "transformer", *arguments],
        env=os.environ | {"LMBENCH_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_torchrun_trains_a_model_and_prints_once(project, tmp_path):
    corpus = write_corpus(tmp_path / "small")
    keys = {"corpus": corpus, "steps": 4, "batch_size": 4, "seq_len": 8, "d_model": 16, "n_layer": 1}
    done = torchrun(project, *(f"-p{key}={value}" for key, value in keys.items()))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("transformer, 4 steps: ") == 1
    store = Store(project / "results")
    (digest,) = store.digests()
    assert store.record(digest)["env"]["ranks"] == 2
    assert done.stdout.rstrip().endswith(str(store.folder(digest)))


@pytest.fixture
def launched(monkeypatch):
    """As in a process that torchrun started; nobody answers at its address."""
    place = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in (place | {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "words, said",
    [(["-p", "stepz=3"], "unknown key 'stepz'"), (["--device", "gpu"], "unknown device 'gpu'")],
)
def test_a_wrong_argument_stops_each_process_before_it_waits_for_the_others(
    launched, project, capsys, words, said
):
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "transformer", *words])
    assert caught.value.code == 1
    assert said in capsys.readouterr().err


def test_each_process_takes_a_gpu_of_its_own(launched, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert own_device(torch.device("cuda")) == torch.device("cuda", 1)
    assert own_device(CPU) == CPU
    with pytest.raises(ValueError, match="device 'cuda:0' is one GPU; under torchrun it must be cuda"):
        own_device(torch.device("cuda:0"))
    with pytest.raises(ValueError, match="device 'mps' cannot train under torchrun"):
        own_device(torch.device("mps"))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ValueError, match="--nproc-per-node = 2, but this machine has 1 GPUs"):
        own_device(torch.device("cuda"))


def test_without_torchrun_a_process_is_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with joined(CPU) as ranks:
        assert ranks == ALONE == Ranks(rank=0, n=1)
    assert own_device(torch.device("cuda:3")) == torch.device("cuda:3")
    assert list(ranks.share(2)) == [0, 1]
    assert ranks.env({"device": "x"}, device=CPU) == {"device": "x"}


def test_gradients_travel_with_the_last_part_alone():
    module, sent = SimpleNamespace(no_sync=lambda: "kept"), []
    two = SimpleNamespace(is_alone=False, average_=sent.append)
    passes = [Ranks.averaging(two, module, "sum", at=at, of=range(4, 7)) for at in (4, 5, 6)]
    assert passes[:2] == ["kept", "kept"] != passes[2]
    assert sent == ["sum"]  # of the first two parts
    Ranks.averaging(two, module, "sum", at=4, of=range(4, 5))
    assert sent == ["sum"]  # nothing went before


def test_shares_are_consecutive_and_devices_are_counted():
    ranks = [Ranks(rank=rank, n=3) for rank in range(3)]
    assert [list(one.share(2)) for one in ranks] == [[0, 1], [2, 3], [4, 5]]
    env = {"device": "GPU", "jobs": 1}
    assert ranks[0].env(env, device=torch.device("cuda")) == {"device": "3 x GPU", "jobs": 1, "ranks": 3}
    assert ranks[0].env(env, device=CPU)["device"] == "GPU"
    assert replace(ranks[0], nodes=3).env(env, device=CPU)["device"] == "3 x GPU"


# ------------------------------------------------------------------ the benchmark


@pytest.fixture
def untouched_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_benchmark_measures_one_process_and_several_in_turn(tmp_path, monkeypatch, untouched_threads):
    launched = []

    def launch(arguments, *, processes):
        """The process of rank 0 in this one, alone."""
        launched.append(processes)
        return two_gpus.main(arguments)

    monkeypatch.setattr(two_gpus, "launch", launch)
    words = ["--quick", "--repeats", "2", "--threads", "1", "--device", "cpu", "--out", str(tmp_path)]
    (result,) = two_gpus.main([*words, "--processes", "3"])
    assert launched == [3]
    assert (result["name"], result["repeats"], result["processes"]) == ("two_gpus", 2, 1)
    assert result["largest_loss_difference"] == 0  # the same steps of the same run
    assert [json.loads(path.read_text()) for path in tmp_path.iterdir()] == [result]


def test_the_benchmark_trains_more_than_85_million_parameters(tmp_path):
    write_corpus(tmp_path / "small")
    run = two_gpus.large_run(tmp_path / "small", steps=1, sequences=2, quick=False)
    # Four C x C maps and two C x 4C maps in each of 12 layers, 65 letters and 1024 places, 25 norms.
    expected = 12 * (4 * 768**2 + 2 * 768 * 3072) + (65 + 1024) * 768 + 25 * 768
    assert parameters(run.model.replace(vocab_size=65)).total == expected > 85_000_000


def test_launched_processes_inherit_the_environment_and_their_output_is_read(monkeypatch, capsys):
    asked = {}

    def run(command, **how):
        asked.update(command=command, how=how)
        return subprocess.CompletedProcess(command, 0, stdout='noise\n{"name": "two_gpus"}\n')

    monkeypatch.setattr(subprocess, "run", run)
    assert two_gpus.launch(["--quick"], processes=2) == [{"name": "two_gpus"}]
    assert capsys.readouterr().out == '{"name": "two_gpus"}\n'
    assert "env" not in asked["how"] and asked["how"]["check"]
    assert asked["command"][-4:] == ["2", "-m", "benchmarks.two_gpus", "--quick"]
