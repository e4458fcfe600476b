"""A captured scorer gives what the scorer gives, whatever the sizes of the batches that reach it."""

import gc

import torch

from lmbench.tasks.base import IGNORE, Batch
from lmbench.training.capture import CapturedScorer, _no_collection

CPU = torch.device("cpu")


def batch(rows, *, first=0, width=4):
    tokens_BT = first + torch.arange(rows * width).view(rows, width)
    return Batch(tokens_BT=tokens_BT, targets_BT=tokens_BT + 1)


def test_batches_are_copied_into_the_tensors_of_the_largest_so_far():
    seen = []

    def scorer(held):
        seen.append(held)
        return held.tokens_BT[None].double(), held.targets_BT[None].double()

    captured = CapturedScorer(scorer, device=CPU)
    for asked in (batch(3), batch(2, first=50), batch(3, first=90), batch(5, first=7)):
        tokens, targets = captured(asked)
        assert torch.equal(tokens[0], asked.tokens_BT.double())
        assert torch.equal(targets[0], asked.targets_BT.double())
    assert seen[0] is seen[1] is seen[2], "batches of no more rows share one graph"
    assert seen[3] is not seen[0] and len(seen[3].tokens_BT) == 5


def test_rows_that_a_short_batch_leaves_over_are_not_targets():
    held = []
    captured = CapturedScorer(lambda one: held.append(one) or (one.tokens_BT[None],), device=CPU)
    captured(batch(3))
    captured(batch(1, first=40))
    assert (held[-1].targets_BT[1:] == IGNORE).all() and (held[-1].targets_BT[:1] != IGNORE).all()


def test_a_result_is_not_overwritten_by_the_next_batch():
    captured = CapturedScorer(lambda one: (one.tokens_BT[None],), device=CPU)
    (kept,) = captured(batch(2))
    captured(batch(2, first=100))
    assert torch.equal(kept[0], batch(2).tokens_BT)


def test_garbage_is_collected_before_a_capture_and_not_inside():
    """A graph of a run before that were freed inside would end the capture with an error."""
    freed = []

    class Holder:
        def __init__(self):
            self.me = self  # a cycle: only the collector frees it

        def __del__(self):
            freed.append(True)

    Holder()
    with _no_collection():
        assert freed == [True] and not gc.isenabled()
        for _ in range(2000):
            Holder()
        assert freed == [True]
    assert gc.isenabled()
