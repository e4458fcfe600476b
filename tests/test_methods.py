"""What the engine promises to methods: controls, state, frozen weights, passes, objectives, teachers."""

from typing import ClassVar

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrize

from lmbench import config
from lmbench.config import make
from lmbench.measure.score import summed_loss
from lmbench.methods.attached import Attached
from lmbench.methods.base import Method, Objective
from lmbench.methods.equipment import Equipment, equipped, in_force, trained_name
from lmbench.models.base import seeded
from lmbench.store import Store
from lmbench.training.checkpoint import Checkpoint
from lmbench.training.execute import run_all
from lmbench.training.loop import train, train_group
from lmbench.training.program import Program
from lmbench.training.rescore import evaluate_run
from tests.corpora import write_corpus
from tests.test_groups import CPU, tiny_run, untimed

UP = "blocks.0.feedforward.up.weight"


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    corpus = write_corpus(tmp_path_factory.mktemp("methods") / "small")
    return make("task", "text", corpus=str(corpus), tokenizer="char")


# ------------------------------------------------------------------ methods that do one thing each


class Scaled(nn.Module):
    """w * factor."""

    def __init__(self, permanent):
        super().__init__()
        self.permanent = permanent
        self.register_buffer("factor", torch.ones(()), persistent=False)

    def forward(self, w):
        return w * self.factor.to(w.dtype)


class Factor(Method):
    """A control: the up map is scaled by 1 + step / 10."""

    permanent: ClassVar[bool] = True

    def attach(self, model, config, *, steps):
        owner = model.get_submodule(UP.rpartition(".")[0])
        parametrize.register_parametrization(owner, "weight", Scaled(self.permanent))
        return FactorAttached()


class FactorAttached(Attached):
    def controls(self, runs):
        table = 1 + torch.arange(float(runs[0].steps)) / 10
        return {"blocks.0.feedforward.up.parametrizations.weight.0.factor": table[:, None]}


class Masked(nn.Module):
    """w * mask, in forward passes and for good."""

    permanent = True

    def __init__(self, like):
        super().__init__()
        self.register_buffer("mask", torch.ones_like(like))

    def forward(self, w):
        return w * self.mask.to(w.dtype)


class Half(Method):
    """State: from step 3 on, every third step, the smaller half of the up map is masked; others freeze."""

    place: ClassVar[int] = 0
    freezes: bool = False

    def attach(self, model, config, *, steps):
        owner = model.get_submodule(UP.rpartition(".")[0])
        parametrize.register_parametrization(owner, "weight", Masked(owner.weight))
        return HalfAttached(self.freezes)


class HalfAttached(Attached):
    mask = "blocks.0.feedforward.up.parametrizations.weight.0.mask"
    state = (mask,)

    def __init__(self, freezes):
        self.freezes = freezes

    def due(self, done):
        return done >= 3 and done % 3 == 0

    def refresh(self, weights, state, *, done):
        size = weights["blocks.0.feedforward.up.parametrizations.weight.original"].abs()
        state[self.mask].copy_((size >= size.flatten(1).median(dim=1).values[:, None, None]).float())

    def active(self, buffers):
        name = "blocks.0.feedforward.up.parametrizations.weight.original"
        return {name: buffers[self.mask] > 0} if self.freezes else {}

    def report(self):
        return {"density": 0.5}


class TwoTerms(Objective):
    """Cross entropy, twice at step 2, and the distance to a teacher."""

    terms = ("hard", "soft")

    def numbers(self, steps):
        return torch.tensor([[2.0 if step == 2 else 1.0] for step in range(steps)])

    def __call__(self, logits_BTV, targets_BT, teacher_MBTV, numbers_K):
        hard = summed_loss(logits_BTV, targets_BT)
        soft = torch.zeros(()) if teacher_MBTV is None else (logits_BTV - teacher_MBTV[0]).square().sum()
        return torch.stack((numbers_K[0] * hard + soft, hard, soft))


class Taught(Method):
    teacher: tuple = ()

    @property
    def teachers(self):
        return self.teacher

    def objective(self):
        return TwoTerms()


class Doubled(Method):
    """Another module executes the passes of odd steps: the same function, its loss halved twice over."""

    def attach(self, model, config, *, steps):
        return DoubledAttached(model)


class DoubledAttached(Attached):
    def __init__(self, model):
        self.other = nn.ModuleList([model])
        self.asked = []
        outer = self

        class Other(nn.Module):
            def forward(self, *inputs, **how):
                outer.asked.append("other")
                return model(*inputs, **how)

        self.pass_of_odd = Other()

    def pass_model(self, done):
        return ("odd", self.pass_of_odd) if done % 2 else (None, None)


# ------------------------------------------------------------------ controls


def run_with(task, *methods, **fields):
    return tiny_run(task, **{"steps": 8, "dtype": "float64", "weights": "final"} | fields).replace(
        methods=methods
    )


def test_controls_have_the_value_of_the_step_in_its_pass_and_in_the_scores_after_it(task):
    program = Program([run_with(task, Factor())], device=CPU)
    name = "blocks.0.feedforward.up.parametrizations.weight.0.factor"
    for step in range(3):
        program.advance(1)
        assert program.replicas.module.get_buffer(name).item() == pytest.approx(1 + step / 10)
        shadow = program.kept.plain(0)[UP]
        torch.testing.assert_close(program.kept.state(0)[UP], shadow * (1 + step / 10))


def test_what_is_not_permanent_is_not_exported(task, monkeypatch):
    monkeypatch.setattr(Factor, "permanent", False)
    program = Program([run_with(task, Factor())], device=CPU)
    program.advance(3)
    assert torch.equal(program.kept.state(0)[UP], program.kept.plain(0)[UP])


@pytest.mark.parametrize("methods", [(Factor(),), (Half(),), (Half(freezes=True),), (Factor(), Half())])
def test_a_group_ends_as_each_run_does_alone(methods, task):
    runs = [run_with(task, *methods, ema=0.5).with_seed(seed) for seed in range(3)]
    together = train_group(runs, device=CPU)
    for run, one in zip(runs, together, strict=True):
        alone = train(run, device=CPU)
        for name, value in alone.final.items():
            torch.testing.assert_close(one.final[name], value, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("stop", [1, 3, 5, 7])
def test_training_that_is_stopped_ends_in_the_same_bits(stop, task, tmp_path):
    run = run_with(task, Factor(), Half(freezes=True), Taught(), dtype="float32", ema=0.5)
    whole, digests = train(run, device=CPU), [run.digest]
    checkpoint = Checkpoint(tmp_path, digests, every_seconds=0)

    def die(done):
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_group([run], device=CPU, checkpoint=checkpoint, on_step=die)
    (again,) = train_group([run], device=CPU, checkpoint=Checkpoint(tmp_path, digests, every_seconds=0))
    assert {name: value.tolist() for name, value in again.final.items()} == {
        name: value.tolist() for name, value in whole.final.items()
    }
    pd.testing.assert_frame_equal(
        *(untimed(pd.DataFrame(one.record.rows).assign(run="", jobs=1)) for one in (again, whole))
    )


# ------------------------------------------------------------------ state


def test_state_is_refreshed_when_due_and_exported_weights_are_masked(task):
    program = Program([run_with(task, Half(), dtype="float32")], device=CPU)
    program.advance(3)
    assert (program.kept.state(0)[UP] == 0).sum() == 0
    program.advance(1)
    weights = program.kept.state(0)[UP]
    assert (weights == 0).float().mean() == pytest.approx(0.5, abs=0.02)
    assert set(program.kept.state(0)) == {
        n for n, _ in seeded(program.run.model, init_seed=0).named_parameters()
    }


def test_frozen_weights_do_not_move_though_momentum_and_decay_would_move_them(task):
    free, frozen = (Program([run_with(task, Half(freezes=is_on))], device=CPU) for is_on in (False, True))
    for program in (free, frozen):
        program.advance(4)
    mask = frozen.replicas.state_views()[HalfAttached.mask][0]
    before = [program.kept.plain(0)[UP] for program in (free, frozen)]
    for program in (free, frozen):
        program.advance(2)
    moved = [program.kept.plain(0)[UP] != one for program, one in zip((free, frozen), before, strict=True)]
    assert not moved[1][mask == 0].any() and moved[1][mask > 0].all()
    assert moved[0][free.replicas.state_views()[HalfAttached.mask][0] == 0].all()


def test_masks_are_neither_averaged_nor_updated(task):
    program = Program([run_with(task, Half(), ema=0.9, dtype="bfloat16")], device=CPU)
    program.advance(6)
    for weights in (program.replicas.master_RP, program.update.ema_RP):
        assert set(program.replicas.state_views(weights)[HalfAttached.mask].unique().tolist()) == {0.0, 1.0}


# ------------------------------------------------------------------ objective, teachers, passes


def test_terms_of_the_objective_are_logged_apart_and_its_numbers_follow_the_step(task):
    rows = pd.DataFrame(train(run_with(task, Taught(), steps=4), device=CPU).record.rows)
    by_step = rows[rows["split"] == "train"].pivot(index="step", columns="metric", values="value")
    assert (by_step["loss_soft"] == 0).all()
    ratio = by_step["loss"] / by_step["loss_hard"]
    assert ratio.tolist() == pytest.approx([1, 1, 2, 1])


def test_a_neutral_objective_leaves_the_loss_bit_identical(task):
    plain, taught = (
        train(run_with(task, *m, steps=2, dtype="float32"), device=CPU) for m in ((), (Taught(),))
    )
    losses = [[r["value"] for r in one.record.rows if r["metric"] == "loss"] for one in (plain, taught)]
    assert losses[0] == losses[1]


def test_a_teacher_is_trained_first_and_read_from_the_store(task, tmp_path):
    teacher = run_with(task, steps=3, dtype="float32").with_seed(7)
    student = run_with(task, Taught(teacher=(teacher,)), steps=2, dtype="float32")
    store = Store(tmp_path)
    rows = run_all([student], store=store, device="cpu", progress=False)
    assert store.has(teacher.digest) and (rows.loc[rows["metric"] == "loss_soft", "value"] > 0).all()
    with pytest.raises(ValueError, match=f"learns from .* {teacher.digest}, which is not there"):
        train_group([student], device=CPU)
    weights = load_file(store.weights(teacher.digest))
    (again,) = train_group([student], device=CPU, teachers={teacher.digest: weights})
    found = [row["value"] for row in again.record.rows if row["metric"] == "loss_soft"]
    assert found == rows.loc[rows["metric"] == "loss_soft", "value"].tolist()


def test_each_replica_learns_from_the_teacher_on_its_own_batch(task):
    teacher = run_with(task, steps=1).with_seed(7)
    weights = {teacher.digest: seeded(teacher.model, init_seed=9).double().state_dict()}
    runs = [
        run_with(task, Taught(teacher=(teacher,)), steps=3, grad_accum=2).with_seed(seed) for seed in (1, 2)
    ]
    together = train_group(runs, device=CPU, teachers=weights)
    for run, one in zip(runs, together, strict=True):
        (alone,) = train_group([run], device=CPU, teachers=weights)
        for name, value in alone.final.items():
            torch.testing.assert_close(one.final[name], value, rtol=1e-8, atol=1e-10)


def test_a_teacher_answers_with_what_it_computed_with_at_its_end(task):
    plain, seen = run_with(task, dtype="float32"), []
    for dtype in ("float32", "bfloat16"):
        run = plain.replace(methods=(make("method", "constrain", curve=0.5),)).with_seed(7)
        weights = {name: value.detach() for name, value in seeded(run.model, init_seed=9).named_parameters()}
        student = plain.replace(methods=(Taught(teacher=(run,)),), dtype=dtype)
        program = Program([student], device=CPU, teachers={run.digest: weights})
        (model,) = program.teachers.models
        ids = torch.arange(4).unsqueeze(0)
        narrow = equipped(run.model, weights, methods=in_force(run.methods, step=1, steps=1)).eval()
        wide = equipped(run.model, weights).eval()(ids).logits_BTV.detach()
        tolerance = {"float32": 1e-6, "bfloat16": 0.05}[dtype]
        found = model(ids).logits_BTV.float()
        torch.testing.assert_close(found, narrow(ids).logits_BTV, rtol=tolerance, atol=tolerance)
        seen.append(float((found - wide).abs().max()))
        assert model.get_buffer("widths.d_model").dtype == torch.float32, "a count that bfloat16 would round"
    assert min(seen) > 0.1


def test_a_run_that_cannot_be_is_refused_before_its_teacher_is_trained(task, tmp_path):
    teacher = run_with(task, steps=1, dtype="float32").with_seed(7)
    student = run_with(task, Taught(teacher=(teacher,)), Taught(), dtype="float32")
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="both replace the objective"):
        run_all([student], store=store, device="cpu", progress=False)
    assert not store.has(teacher.digest)


def test_a_teacher_without_weights_is_named_before_anything_is_trained(task, tmp_path):
    teacher = run_with(task, steps=3, dtype="float32").with_seed(7)
    student = run_with(task, Taught(teacher=(teacher,)), steps=2, dtype="float32")
    other, store = run_with(task, steps=2, dtype="float32"), Store(tmp_path)
    run_all([teacher], store=store, device="cpu", progress=False, keep_weights_mb=0)
    with pytest.raises(ValueError, match=f"{teacher.digest} left no weights to learn from: .* remove "):
        run_all([other, student], store=store, device="cpu", progress=False)
    assert not store.has(other.digest)


def test_methods_in_any_order_are_the_same_run(task):
    prune, quantize = make("method", "prune", density=0.5), make("method", "quantize", bits=4)
    select = make("method", "select_random")
    one, other = run_with(task, prune, quantize, select), run_with(task, select, quantize, prune)
    assert one.methods == other.methods == (prune, quantize, select) and one.digest == other.digest


def test_two_objectives_are_refused(task):
    with pytest.raises(ValueError, match="both replace the objective; accepted: one"):
        train(run_with(task, Taught(), Taught()), device=CPU)


def test_another_module_executes_the_passes_it_is_named_for(task):
    plain, other = (Program([run_with(task, *methods)], device=CPU) for methods in ((), (Doubled(),)))
    for program in (plain, other):
        program.advance(4)
    (attached,) = other.replicas.equipment.attached
    assert attached.asked == ["other", "other"] and torch.equal(plain.losses_SR, other.losses_SR)


# ------------------------------------------------------------------ scoring afterwards


def test_scores_of_stored_weights_are_those_of_the_run(task, tmp_path, monkeypatch):
    monkeypatch.setattr(Half, "kind", "half")
    monkeypatch.setitem(config._REGISTRY["method"], "half", Half)
    run, store = run_with(task, Half(), dtype="float32"), Store(tmp_path)
    rows = run_all([run], store=store, device="cpu", progress=False)
    test = rows[(rows["split"] == "test") & (rows["metric"] == "nll")]["value"].item()
    found = evaluate_run(run.digest, store=store, protocol=run.protocol.replace(stride=1))
    other = found[found["metric"] == "nll"]["value"].item()
    assert other != test and other == pytest.approx(test, rel=0.05)
    assert rows[rows["metric"] == "density"]["value"].tolist() == [0.5]
    weights = load_file(store.weights(run.digest))
    assert (weights[UP] == 0).float().mean() == pytest.approx(0.5, abs=0.02)


def test_given_weights_are_scored_with_methods_beside_them(task):
    shape = run_with(task).model
    weights = {name: value.detach() for name, value in seeded(shape, init_seed=3).named_parameters()}
    model = equipped(shape, weights, methods=(Factor(),))
    assert trained_name(model, UP).endswith("original") and in_force((Factor(),), step=1, steps=1) == ()
    torch.testing.assert_close(Equipment.of(shape, (), init_seed=3, steps=1).exported()[UP], weights[UP])
    ids = torch.zeros(1, 4, dtype=torch.long)
    plain = equipped(shape, weights)
    assert torch.equal(model(ids).logits_BTV, plain(ids).logits_BTV), "the factor of step 0 is 1"


@pytest.mark.parametrize("kind", ["distill", "select"])
def test_what_changes_training_alone_says_nothing_of_weights(kind, task):
    shape = run_with(task).model
    weights = {name: value.detach() for name, value in seeded(shape, init_seed=3).named_parameters()}
    with pytest.raises(ValueError, match=f"method '{kind}' changes training and nothing of finished weights"):
        equipped(shape, weights, methods=(make("method", kind),))
