"""What is kept of each replica: its weights by themselves, and what methods say of them.

Weights are saved, hashed and scored elsewhere as what is computed with: the numbers that are trained
are put into an equipped module on the CPU, which shows what its methods make of them.

Legend: R replica, P parameter of the flat layout.
"""

from collections.abc import Mapping

from torch import Tensor

from lmbench.methods.equipment import Equipment, trained_name
from lmbench.training.replicas import Replicas


class Kept:
    """What is kept of some replicas."""

    def __init__(self, replicas: Replicas) -> None:
        self.replicas, self.layout = replicas, replicas.layout
        self.module, self.equipment = replicas.module, replicas.equipment
        self._spare: Equipment | None = None

    def plain(self, replica: int) -> dict[str, Tensor]:
        """One replica's trained numbers under the names of the plain model, whatever methods make of them."""
        held = self.layout.state(self.replicas.master_RP[replica])
        return {name: held[trained_name(self.module, name)] for name in self.equipment.plain}

    def state(self, replica: int, weights_RP: Tensor | None = None) -> dict[str, Tensor]:
        """The weights that one replica computes with, under the names of the plain model, on the CPU."""
        weights_RP = self.replicas.master_RP if weights_RP is None else weights_RP
        held = self.layout.state(weights_RP[replica])
        return held if not self.equipment.attached else self._filled(replica, held).exported()

    def with_fresh_state(self, weights_RP: Tensor) -> Tensor:
        """The same weights, beside what their scores depend on that is found from the exported ones."""
        found = [one for one in self.equipment.attached if one.found_from_exported]
        if not found:
            return weights_RP
        made_RP = weights_RP.clone()
        for replica, row_1P in enumerate(made_RP.split(1)):
            weights = {
                trained_name(self.module, name): value.to(row_1P.device).unsqueeze(0)
                for name, value in self.state(replica, weights_RP).items()
            }
            for one in found:
                one.refresh(weights, self.replicas.state_views(row_1P), done=0)
        return made_RP

    def report(self, replica: int, weights_RP: Tensor) -> dict[str, float]:
        """What the methods say of one replica's weights, such as densities."""
        if not self.equipment.attached:
            return {}
        return self._filled(replica, self.layout.state(weights_RP[replica])).report()

    def _filled(self, replica: int, held: Mapping[str, Tensor]) -> Equipment:
        """A copy of the equipped module on the CPU with one replica's numbers in it."""
        made = self.replicas
        if self._spare is None:
            self._spare = Equipment.of(made.config, made.methods, init_seed=0, steps=made.steps)
            self._spare.model.to(made.master_RP.dtype)
        held = dict(held) | {name: value[replica].cpu() for name, value in made.controls.items()}
        self._spare.model.load_state_dict(held, strict=False)
        for name, value in held.items():  # those that are not persistent are not in a state dict
            path, _, leaf = name.rpartition(".")
            place = self._spare.model.get_submodule(path)._buffers.get(leaf)
            if place is not None:
                place.copy_(value)
        return self._spare
