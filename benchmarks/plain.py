"""The other side: a small GPT and its training loop in plain PyTorch, as a careful user writes them.

Nothing here uses lmbench. The text lies on the device, attention is the fused kernel, and
AdamW is fused on a GPU: what a loop can have without a rewrite.
The recipes are nanoGPT's (https://github.com/karpathy/nanoGPT, train.py and
config/train_shakespeare_char.py). Legend: B batch, T position, C model width, H head, K head
width, N position in the text, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a GPT: pre-norm blocks, GELU, learned positions."""

    vocab_size: int = 65
    seq_len: int
    n_layer: int
    n_head: int
    d_model: int
    d_ff: int
    dropout: float = 0.0
    """On attention weights and after the feed-forward."""
    dropout_everywhere: bool = False
    """Also after the embedding and the attention's projection (nanoGPT)."""
    bias: bool
    tied: bool
    """The head borrows the token embedding's matrix."""


# Sizes and recipes are those of nanoGPT's two configurations for Tiny Shakespeare.
NANOGPT_GPU = Shape(
    seq_len=256, n_layer=6, n_head=6, d_model=384, d_ff=1536, dropout=0.2, dropout_everywhere=True,
    bias=False, tied=True,
)  # fmt: skip
NANOGPT_CPU = Shape(seq_len=64, n_layer=4, n_head=4, d_model=128, d_ff=512, bias=False, tied=True)
# The transformer of the published study, with pre-norm and GELU.
STUDY = Shape(seq_len=128, n_layer=3, n_head=4, d_model=128, d_ff=256, bias=True, tied=False)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        C, self.n_head, self.dropout = shape.d_model, shape.n_head, shape.dropout
        self.qkv = nn.Linear(C, 3 * C, bias=shape.bias)
        self.out = nn.Linear(C, C, bias=shape.bias)
        self.norm1 = nn.LayerNorm(C, bias=shape.bias)
        self.up = nn.Linear(C, shape.d_ff, bias=shape.bias)
        self.down = nn.Linear(shape.d_ff, C, bias=shape.bias)
        self.norm2 = nn.LayerNorm(C, bias=shape.bias)
        self.drop = nn.Dropout(shape.dropout)
        self.drop_out = nn.Dropout(shape.dropout if shape.dropout_everywhere else 0.0)

    def forward(self, x_BTC: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.n_head, -1)).transpose(1, 2)  # (B, H, T, K)
            for part in self.qkv(self.norm1(x_BTC)).chunk(3, dim=-1)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        x_BTC = x_BTC + self.drop_out(self.out(mixed.transpose(1, 2).flatten(2)))
        return x_BTC + self.drop(self.down(F.gelu(self.up(self.norm2(x_BTC)))))


class GPT(nn.Module):
    """Token and position vectors, blocks, a final norm, and the head."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token = nn.Embedding(shape.vocab_size, shape.d_model)
        self.position = nn.Embedding(shape.seq_len, shape.d_model)
        self.drop = nn.Dropout(shape.dropout if shape.dropout_everywhere else 0.0)
        self.blocks = nn.ModuleList([Block(shape) for _ in range(shape.n_layer)])
        self.norm = nn.LayerNorm(shape.d_model, bias=shape.bias)
        self.head = nn.Linear(shape.d_model, shape.vocab_size, bias=shape.bias)
        if shape.tied:
            self.head.weight = self.token.weight

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """(B, T) ids to logits (B, T, V)."""
        x_BTC = self.drop(self.token(tokens_BT) + self.position.weight[: tokens_BT.shape[1]])
        for block in self.blocks:
            x_BTC = block(x_BTC)
        return self.head(self.norm(x_BTC))


def nanogpt_weights(model: GPT) -> GPT:
    """nanoGPT's initial weights: N(0, 0.02), residual projections narrower by sqrt(2 layers)."""
    narrow = 0.02 / math.sqrt(2 * model.shape.n_layer)
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            nn.init.normal_(weight, std=narrow if name.endswith(("out.weight", "down.weight")) else 0.02)
    return model


# ------------------------------------------------------------------ training


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a GPT is trained; the defaults are nanoGPT's."""

    steps: int
    batch_size: int
    lr: float = 1e-3
    min_lr: float = 1e-4
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.1
    clip: float = 1.0

    def lr_at(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to min_lr."""
        if step < self.warmup:
            return self.lr * (step + 1) / (self.warmup + 1)
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (self.lr - self.min_lr)


NANOGPT_GPU_RECIPE = Recipe(steps=5000, batch_size=64)
NANOGPT_CPU_RECIPE = Recipe(steps=2000, batch_size=12)


def adamw(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with decay on matrices and embeddings only, fused on a GPU."""
    every = list(model.parameters())
    groups = [
        {"params": [p for p in every if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in every if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=every[0].is_cuda)


BatchAt = Callable[[int], tuple[Tensor, Tensor]]


def random_batches(ids_N: Tensor, *, seq_len: int, batch_size: int, seed: int) -> BatchAt:
    """Windows at random positions of a text that lies on the device."""
    generator = torch.Generator(ids_N.device).manual_seed(seed)
    offset_T = torch.arange(seq_len + 1, device=ids_N.device)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        start_B = torch.randint(len(ids_N) - seq_len, (batch_size,), generator=generator, device=ids_N.device)
        window_BT = ids_N[start_B[:, None] + offset_T]
        return window_BT[:, :-1], window_BT[:, 1:]

    return batch


class Loop:
    """The training loop: one step after the other, each launched from Python."""

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: torch.optim.Optimizer,
        batch_at: BatchAt,
        lr_at: Callable[[int], float],
        clip: float,
        bf16: bool,
    ) -> None:
        self.model, self.optimizer, self.batch_at, self.lr_at, self.clip = (
            model, optimizer, batch_at, lr_at, clip,
        )  # fmt: skip
        self.bf16, self.device, self.done = bf16, next(model.parameters()).device, 0
        self.losses: list[Tensor] = []

    def advance(self, steps: int) -> None:
        """Train `steps` more steps; losses stay on the device."""
        self.model.train()
        for step in range(self.done, self.done + steps):
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr_at(step)
            tokens_BT, targets_BT = self.batch_at(step)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                logits_BTV = self.model(tokens_BT)
                loss = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.losses.append(loss.detach())
        self.done += steps


def loop_of(model: GPT, ids_N: Tensor, recipe: Recipe, *, seed: int, bf16: bool) -> Loop:
    """The loop of a recipe on a text, with random batches."""
    batches = random_batches(ids_N, seq_len=model.shape.seq_len, batch_size=recipe.batch_size, seed=seed)
    return Loop(
        model,
        optimizer=adamw(model, recipe),
        batch_at=batches,
        lr_at=recipe.lr_at,
        clip=recipe.clip,
        bf16=bf16,
    )


# ------------------------------------------------------------------ scoring


@torch.no_grad()
def disjoint_nll(
    logits_of: Callable[[Tensor], Tensor], ids_N: Tensor, *, seq_len: int, rows: int = 64
) -> float:
    """Mean nats per target over all disjoint windows of a text, the short last one included.

    Every token but the first is a target once. The scorer of both sides of every time to a loss.

    Args:
        logits_of: (B, T) ids to logits (B, T, V), dropout off.
        rows: windows in one call.
    """
    targets = len(ids_N) - 1
    full = targets // seq_len
    total = torch.zeros((), dtype=torch.float64, device=ids_N.device)
    spans = [(at * seq_len, min(rows, full - at), seq_len) for at in range(0, full, rows)]
    if targets % seq_len:
        spans.append((full * seq_len, 1, targets % seq_len))
    for start, n, width in spans:
        tokens_BT = ids_N[start : start + n * width].view(n, width)
        targets_N = ids_N[start + 1 : start + 1 + n * width]
        logits_NV = logits_of(tokens_BT).flatten(0, 1).float()
        total += F.cross_entropy(logits_NV, targets_N, reduction="sum").double()
    return float(total) / targets


def score(model: nn.Module, ids_N: Tensor, *, seq_len: int) -> float:
    """`disjoint_nll` of a model in float32 with dropout off, left in training mode."""
    model.eval()
    nll = disjoint_nll(model, ids_N, seq_len=seq_len)
    model.train()
    return nll
