"""The integrator language model (INL): attention whose output steers a damped oscillator in every block.

Published as a guide with its code ("INL-LLM"), without a result. The defaults are the baseline
of that code (fused controller, block of three norms, tied head, fixed positions) at a small
size; where guide and code contradict each other, or the code itself, a field has both readings.
Its optimisations are fields, each off at its default; `models.integrator_variants` names
combinations. Checkpointing changes no number and is in no variant. Parts that the published
models build and never call (the shared controller of ultra, one norm of level1_published) are
not built here; `published_parameters` counts them. Legend: C model width.
"""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from lmbench.layers.cost import Term
from lmbench.layers.embedding import embedding_terms, head_terms
from lmbench.layers.integrator_block import integrator_block_terms, recomputed_flops
from lmbench.layers.integrator_mixture import unchosen_parameters
from lmbench.layers.integrator_phases import stage_fields
from lmbench.layers.integrator_shape import (
    Checkpointing,
    DynamicAlpha,
    EquilibriumKind,
    Excited,
    Harmonics,
    IntegratorShape,
    Phases,
    Start,
    Stopping,
)
from lmbench.layers.integrator_sizes import SIZES, SizeName, published_rank
from lmbench.layers.shape import Activation, BlockShape, NormKind, Positions
from lmbench.models.base import ModelConfig, Readout, four_widths
from lmbench.models.integrator_module import IntegratorModel
from lmbench.models.integrator_variants import VARIANTS

EmbeddingKind = Literal["full", "low_rank", "low_rank_published"]


class IntegratorConfig(ModelConfig):
    """A stack of integrator blocks."""

    kind: ClassVar[Literal["integrator"]] = "integrator"
    crosses: ClassVar[str] = ""
    variants: ClassVar[dict[str, dict[str, Any]]] = VARIANTS

    published_size: SizeName | None = None
    """Fills in d_model, n_layer, n_head, d_ff and n_iteration of that size where they are not given,
    and is then None again: the config is the one in which they are spelled out."""
    d_model: int = Field(128, ge=1)
    """Width of the residual stream; a multiple of n_head."""
    n_layer: int = Field(3, ge=1)
    """Blocks."""
    n_head: int = Field(4, ge=1)
    """Attention heads."""
    d_ff: int = Field(512, ge=1)
    """Width of the feed-forward layers; None is turned into 4 d_model (published)."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """On attention weights, the embedding and all three branches, in training; 0 switches it off."""
    norm: NormKind = "layernorm"
    """Kind of every norm but that of queries and keys."""
    positions: Positions = "sinusoidal"
    """How positions are told apart."""
    activation: Activation = "gelu"
    """Of the feed-forward; swiglu has 3 C d_ff weights, the others 2 C d_ff."""
    qk_norm: bool = False
    """RMSNorm of queries and keys over the head width."""
    bias: bool = True
    """Biases of attention, feed-forward and LayerNorms; controllers have theirs always, heads none."""
    embedding: EmbeddingKind = "full"
    """One table, or two factors; low_rank starts with the spread of the table, low_rank_published
    with both factors from N(0, 0.02^2), which makes token vectors a third as large or less."""
    rank: int | None = Field(None, ge=1)
    """Of the low-rank embedding; None is the published max(64, d_model / 8)."""
    tied_head: bool = True
    """The head borrows the embedding's table or factors; Level 1 and ultra have a full one of their own."""

    n_iteration: int = Field(5, ge=0)
    """Steps of each cell. 0, for scoring, leaves the start as it is; with 1, gamma and W_v have no use."""
    d_controller: int = Field(64, ge=1)
    """Hidden width of the controllers."""
    dt: float = Field(0.1, gt=0)
    """Length of a step."""
    velocity_scale: float = Field(1.0, gt=0)
    """Factor of the velocity in a step."""
    candidate: bool = True
    """A candidate velocity as fourth output of the controller; the published sparse, hierarchical and
    mixed cells have none."""
    dynamic_alpha: DynamicAlpha = "off"
    """alpha times exp(-kappa |x - mu|) (published) or of the root mean square; the first is 0 in practice."""
    kappa: float = Field(1.0, ge=0)
    """Rate of dynamic_alpha."""
    start: Start = "norm"
    """First position: the normed residual stream, or mu, where the token is seen through attention only."""
    equilibrium: EquilibriumKind = "features"
    """What is learned of mu: a number for each feature, one and an offset for each group, one, or none."""
    target: float = 0.0
    """First value of mu, and what the speed loss measures from."""
    group_size: int = Field(64, ge=1)
    """Features of a group of `equilibrium = "groups"`."""
    excitation: float = Field(0.03, ge=0)
    """Amplitude A of the harmonic force; 0 leaves it out, unless phases raise it."""
    excitation_share: float = Field(1.0, gt=0, le=1)
    """Of the features that the force acts on, evenly spread; the guide's sparse form is 0.1."""
    excited: Excited = "training"
    """Whether the force acts in evaluation too, as in the published dense form."""
    harmonics: Harmonics = "random"
    """Frequencies and phases drawn in each layer, or the same in all as published."""
    shared_controller: bool = False
    """One controller for all layers, each with a scale and a shift of each of its outputs."""
    n_expert: int = Field(1, ge=1)
    """Controllers of each layer to choose from; 1 is the plain cell."""
    top_k: int = Field(1, ge=1)
    """Controllers that each token uses."""
    balance_weight: float = Field(0.01, ge=0)
    """Of each router's balance loss, 1 where its controllers share evenly; 0 switches it off."""
    z_weight: float = Field(1e-3, ge=0)
    """Of the mean square of each router's logsumexp; 0 switches it off."""
    stopping: Stopping = "off"
    """When a token's iterations end, in evaluation; see `layers.integrator_stop`."""
    tolerance: float = Field(0.01, ge=0)
    """eps of the stopping rule; 0 never stops."""
    min_iteration: int = Field(3, ge=1)
    """Steps that every token takes."""
    mean_weight: float = Field(0.0, ge=0)
    """Of the mean loss, an average over the layers like the next two; 0 switches it off."""
    speed_weight: float = Field(0.0, ge=0)
    """Of the speed loss; 0 switches it off."""
    energy_weight: float = Field(0.0, ge=0)
    """Of the energy loss; 0 switches it off."""
    phases: Phases = "off"
    """A published schedule that sets mean_weight and excitation in the course of training, in place of
    these fields; or the mean loss alone, annealed from mean_weight to a tenth of it."""
    checkpointing: Checkpointing = "none"
    """What is computed again in the backward pass instead of kept: each step, a cell's steps, a block."""

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, data: Any) -> Any:
        """A published size as the fields that it stands for."""
        name = data.get("published_size") if isinstance(data, dict) else None
        if name not in SIZES:
            return data  # none, or one that the field's type refuses
        return SIZES[name]._asdict() | data | {"published_size": None}

    _four_widths = field_validator("d_ff", mode="before")(four_widths)

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        self.block_shape()
        self.cell_shape()
        return self

    def block_shape(self) -> BlockShape:
        """What is not the integrator's in each block, and both ends."""
        own = {name: getattr(self, name) for name in BlockShape.names() if name in _BLOCK_FIELDS}
        rank = published_rank(self.d_model) if self.rank is None else self.rank
        return BlockShape(
            **own,
            n_kv_head=self.n_head,
            norm_order="pre",
            attention_init="multihead",
            residual_dropout=True,
            init="gpt2",  # which the ends read; blocks of this kind start as torch's parts do
            embedding_rank=None if self.embedding == "full" else rank,
        )

    def cell_shape(self) -> IntegratorShape:
        """Each block's integrator."""
        return IntegratorShape(**{name: getattr(self, name) for name in IntegratorShape.names()})

    @property
    def alone(self) -> str:
        """Why replicas cannot be stacked."""
        if self.checkpointing == "none":
            return ""
        return "torch's checkpointing recomputes outside of vmap, whose stacked tensors are gone by then"

    def build(self) -> IntegratorModel:
        """The module with freshly drawn weights."""
        model = IntegratorModel(
            self.block_shape(),
            cell=self.cell_shape(),
            vocab_size=self.vocab_size,
            published_factors=self.embedding == "low_rank_published",
        )
        # Weights that are loaded to be scored are those of the last stage.
        model.enter(self.stages()[-1][1])
        return model

    def terms(self, readout: Readout) -> tuple[Term, ...]:
        """Both ends and all blocks."""
        shape = self.block_shape()
        blocks = integrator_block_terms(shape, cell=self.cell_shape(), n_layer=self.n_layer)
        head = head_terms(shape, vocab_size=self.vocab_size, readout=readout)
        return embedding_terms(shape) + blocks + head

    def recomputed(self) -> int:
        """See `ModelConfig.recomputed`."""
        return recomputed_flops(self.block_shape(), cell=self.cell_shape(), n_layer=self.n_layer)

    def inactive_parameters(self) -> int:
        """Of the controllers that a token does not choose."""
        return unchosen_parameters(self.cell_shape(), n_layer=self.n_layer)

    def stages(self) -> tuple[tuple[float, "IntegratorConfig"], ...]:
        """The phases, with what they set in the fields of these names."""
        if self.phases == "off":
            return super().stages()
        changes = stage_fields(self.phases, mean_weight=self.mean_weight)
        return tuple((share, self.replace(**fields)) for share, fields in changes)


_BLOCK_FIELDS = frozenset(
    {"seq_len", "d_model", "n_head", "d_ff", "dropout", "n_layer", "tied_head"}
    | {"norm", "positions", "activation", "qk_norm", "bias"}
)
