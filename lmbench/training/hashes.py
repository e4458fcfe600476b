"""Hashes of tensors: what weights and batches are told apart by, and what shows two to be the same.

An `Evaluation` names the weights that it scores by their hash, whatever run or file they come from;
runs that are compared as pairs show by the hashes of their first batches that they are pairs.
"""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from lmbench.tasks.base import Batch


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes, in the order of the names."""
    return hash_of(state, start="")


def hash_of(tensors: Mapping[str, Tensor], *, start: str) -> str:
    """The same over a text and tensors behind it."""
    digest = hashlib.sha256(start.encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def batch_hash(batch: Batch) -> str:
    """sha256 over the tokens and targets of a batch."""
    body = batch.tokens_BT.cpu().numpy().tobytes() + batch.targets_BT.cpu().numpy().tobytes()
    return hashlib.sha256(body).hexdigest()
