"""The phases of an integrator's training: rest at the equilibrium, then exploration, in turn.

A warm-up is one long phase of equilibrium; cycles of equilibrium and exploration follow. A
phase says how strongly the mean loss pulls and how large the excitation is. Lengths were
published in epochs; a run has a number of steps, so they are shares of it here. The default
preset's, 10 and 5 (10 + 20) of 160 epochs, are 1/16 and 5 (1/16 + 2/16).

The published scheduler computes a phase's numbers and hands them to nothing that reads them;
here they reach every layer. Instead of phases the mean loss alone may be annealed.
"""

from typing import NamedTuple

from lmbench.layers.integrator_losses import annealed

ANNEALING_STEPS = 100
"""The published weight changes from epoch to epoch, of which there are 100."""


class Phase(NamedTuple):
    """What holds for a while."""

    mean_weight: float
    excitation: float
    epochs: int
    """Published length."""


class Preset(NamedTuple):
    """A published schedule."""

    equilibrium: Phase
    exploration: Phase
    n_cycle: int
    warmup_epochs: int
    """Of a first phase with the numbers of `equilibrium`."""

    @property
    def epochs(self) -> int:
        """Published length of the whole."""
        cycle = self.equilibrium.epochs + self.exploration.epochs
        return self.warmup_epochs + self.n_cycle * cycle

    def phases(self) -> list[Phase]:
        """In their order, the warm-up first."""
        warmup = self.equilibrium._replace(epochs=self.warmup_epochs)
        return [warmup, *(self.n_cycle * [self.equilibrium, self.exploration])]


PRESETS = {
    "conservative": Preset(Phase(0.8, 0.0, 15), Phase(0.1, 0.02, 15), n_cycle=4, warmup_epochs=20),
    "balanced": Preset(Phase(0.5, 0.0, 10), Phase(0.05, 0.05, 20), n_cycle=5, warmup_epochs=10),
    "aggressive": Preset(Phase(0.3, 0.0, 5), Phase(0.01, 0.08, 25), n_cycle=6, warmup_epochs=5),
}


def phase_starts(preset: str) -> list[tuple[float, Phase]]:
    """(share of the run at which it begins, phase), from 0 on."""
    held, starts, epoch = PRESETS[preset], [], 0
    for phase in held.phases():
        starts.append((epoch / held.epochs, phase))
        epoch += phase.epochs
    return starts


def annealing_starts(kind: str) -> list[tuple[float, float]]:
    """(share of the run at which it begins, factor of the mean loss's weight), from 0 on."""
    shares = [step / ANNEALING_STEPS for step in range(ANNEALING_STEPS)]
    return [(share, annealed(share, kind=kind)) for share in shares]


def stage_fields(kind: str, *, mean_weight: float) -> list[tuple[float, dict[str, float]]]:
    """(share of the run at which it begins, what it sets in the model's fields of these names), from 0 on.

    Args:
        kind: a preset, or how the mean loss alone is annealed.
        mean_weight: that of the model, from which it is annealed.
    """
    if kind in PRESETS:
        return [
            (share, {"mean_weight": phase.mean_weight, "excitation": phase.excitation})
            for share, phase in phase_starts(kind)
        ]
    return [(share, {"mean_weight": factor * mean_weight}) for share, factor in annealing_starts(kind)]
