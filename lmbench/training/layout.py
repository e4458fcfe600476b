"""Where each parameter of a model lies in one flat buffer that holds the parameters of R replicas.

One buffer for weights, one for gradients, one for each moment: clipping, the update, the cast
to bfloat16, averaging and checkpoints are then a few operations on a (R, P) tensor, however
many parameters a model has. The order is hidden matrices, other matrices, vectors, because
optimizers treat these differently: Muon takes the first, decay the first two.

Legend: R replica, P parameter of the flat layout.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmbench.models.base import LanguageModel

ALIGNED = 32  # elements: segments start where 16-byte loads of bfloat16 may start


@dataclass(frozen=True)
class Segment:
    """One parameter's place."""

    name: str
    shape: tuple[int, ...]
    start: int

    @property
    def stop(self) -> int:
        return self.start + torch.Size(self.shape).numel()


@dataclass(frozen=True)
class Layout:
    """The places of all parameters; gaps between them hold zeros."""

    segments: tuple[Segment, ...]
    n_hidden: int
    """Where the hidden matrices (of two axes, neither embedding nor head) end."""
    n_matrix: int
    """Where all parameters of two or more axes end."""
    n_trained: int
    """Where the parameters end and the state of methods begins."""
    width: int
    """P, gaps included."""

    @classmethod
    def of(cls, model: LanguageModel, state: Sequence[str] = ()) -> "Layout":
        """The layout of a model's parameters.

        Args:
            state: names of buffers that each replica has of its own, see `methods.attached`.
        """
        named = list(model.named_parameters())
        hidden = [n for n, p in named if p.ndim == 2 and n.split(".")[0] not in model.ends]
        matrices = [n for n, p in named if p.ndim >= 2 and n not in hidden]
        vectors = [n for n, p in named if p.ndim < 2]
        shapes = {name: tuple(p.shape) for name, p in named}
        shapes |= {name: tuple(model.get_buffer(name).shape) for name in state}
        segments, ends, at = [], [], 0
        for group in (hidden, matrices, vectors, list(state)):
            for name in group:
                segments.append(Segment(name, shapes[name], at))
                at = -(-segments[-1].stop // ALIGNED) * ALIGNED
            ends.append(at)
        names = ("n_hidden", "n_matrix", "n_trained", "width")
        return cls(tuple(segments), **dict(zip(names, ends, strict=True)))

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the hidden matrices, and the number of all other parameters as one vector."""
        rest = sum(s.stop - s.start for s in self.trained if s.start >= self.n_hidden)
        return [s.shape for s in self.hidden] + [(rest,)]

    @property
    def hidden(self) -> list[Segment]:
        """The hidden matrices."""
        return [s for s in self.segments if s.start < self.n_hidden]

    @property
    def trained(self) -> list[Segment]:
        """The parameters."""
        return [s for s in self.segments if s.start < self.n_trained]

    def views(self, flat_RP: Tensor) -> dict[str, Tensor]:
        """Each parameter, and each state that the buffer reaches, as (R, *shape), sharing its memory."""
        return self.views_of(flat_RP, [s for s in self.segments if s.stop <= flat_RP.shape[1]])

    def views_of(self, flat_RP: Tensor, segments: Iterable[Segment]) -> dict[str, Tensor]:
        """The same of some segments, which the buffer must reach."""
        R = flat_RP.shape[0]
        return {s.name: flat_RP[:, s.start : s.stop].view(R, *s.shape) for s in segments}

    def join(self, values: Mapping[str, Tensor], segments: Sequence[Segment], *, like: Tensor) -> Tensor:
        """The inverse of `views_of`: (R, *shape) tensors in one new buffer that ends with the segments.

        One kernel for all of them; copies into views of a buffer would be one for each.
        """
        parts, at, R = [], 0, like.shape[0]
        for segment in segments:
            parts.append(values[segment.name].reshape(R, -1))
            at = segment.stop
            gap = -at % ALIGNED
            if gap:
                parts.append(like.new_zeros(R, gap))
        return torch.cat(parts, dim=1)

    def fill(self, flat_P: Tensor, model: LanguageModel) -> None:
        """Copy a model's weights, and the state of its methods, into one replica's row."""
        for segment in self.segments:
            is_trained = segment.start < self.n_trained
            value = (model.get_parameter if is_trained else model.get_buffer)(segment.name)
            flat_P[segment.start : segment.stop].copy_(value.detach().reshape(-1))

    def state(self, flat_P: Tensor) -> dict[str, Tensor]:
        """One replica's parameters and state by name, as copies on the CPU."""
        row_P = flat_P.detach().to("cpu", copy=True)
        return {name: value[0].clone() for name, value in self.views(row_P.unsqueeze(0)).items()}
