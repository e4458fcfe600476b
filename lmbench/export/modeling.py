"""A model of the suite in the classes of Hugging Face's transformers.

An exported folder names this module, which needs both packages. `from_pretrained`, `generate`
(with the model's own state as cache, or without), padding on either side, labels and the
interface of lm-evaluation-harness work as for any model of the library; see `starts` for the
one token that is added. A text may be generated beyond the context: then each token is
predicted from the last seq_len tokens, without a cache.

Legend: B batch, T position, V vocabulary without the start of a text, W with it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from lmbench.config import from_dict
from lmbench.export.starts import logits_of, widen
from lmbench.layers.dropout import dropout_sites
from lmbench.models.base import State

IGNORED = -100  # a label that is not scored, in this library as in torch


class LmbenchConfig(PreTrainedConfig):
    """The library's config: a model config of the suite, and what other code asks a config for."""

    model_type = "lmbench"

    lmbench_model: dict[str, Any] | None = None
    """`ModelConfig.to_dict()`."""
    lmbench_run: str = ""
    """Digest of the run whose weights these are."""
    vocab_size: int = 0
    """W: one more than the model's, for the start of a text."""
    max_position_embeddings: int = 0
    """The context."""


class StateCache:
    """The state of a model as `generate` carries it from step to step."""

    is_compileable = False

    def __init__(self, state: State, *, n_read: int) -> None:
        self.state, self.n_read = state, n_read

    def get_seq_length(self) -> int:
        """Columns of the input that have been read, starts included."""
        return self.n_read

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Go on with these rows (beam search)."""
        layers = [
            {k: v.index_select(0, beam_idx.to(v.device)) for k, v in x.items()} for x in self.state.layers
        ]
        self.state = self.state._replace(layers=tuple(layers))


class LmbenchForCausalLM(PreTrainedModel, GenerationMixin):
    """The library's causal language model around one of the suite's."""

    config_class = LmbenchConfig
    main_input_name = "input_ids"

    def __init__(self, config: LmbenchConfig) -> None:
        super().__init__(config)
        # For real even where the library builds on the meta device, for the sake of the tables.
        with torch.device("cpu"):
            self.model = from_dict("model", config.lmbench_model).build()
        self.tables = {name: table.clone() for name, table in self.model.named_buffers()}
        self.start = config.vocab_size - 1
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """The model has drawn its own; but when weights are loaded, tables outside them are lost."""
        for name, table in self.tables.items():
            self.model.get_buffer(name).copy_(table)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # the library's own cache; ours comes with the first output

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: StateCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
    ) -> CausalLMOutputWithPast | tuple[Tensor, ...]:
        """Logits (B, T, W) and, if asked, the loss and a cache.

        Args:
            input_ids: (B, T), at most seq_len between two starts.
            attention_mask: (B, T), 0 where there is padding.
            past_key_values: what an earlier call returned; the logits are then (B, 1, W).
            labels: (B, T), as input_ids; the library shifts them. Starts are not scored.
            use_cache: whether to return a cache; without one if rows begin at different columns.
            logits_to_keep: only the last so many positions; 0 is all.

        Raises:
            ValueError: a text longer than the context, or a start after a cache.
        """
        if self.training:
            for site in dropout_sites(self.model):  # a mask is a function of its key
                self.model.get_buffer(site).random_()
        if attention_mask is not None:
            input_ids = input_ids.masked_fill(attention_mask[:, -input_ids.shape[1] :] == 0, self.start)
        cache = None
        if past_key_values is not None:
            logits_BTW, cache = self._extend(input_ids, past_key_values.state, n_read=past_key_values.n_read)
        elif use_cache and labels is None and logits_to_keep == 1 and self._begins_together(input_ids):
            logits_BTW, cache = self._extend(input_ids, None, n_read=0)
        else:
            logits_BTW = logits_of(self.model, input_ids, start=self.start)
        loss = None if labels is None else self._loss(logits_BTW, labels)
        logits_BTW = logits_BTW[:, -logits_to_keep:]  # -0 is all
        found = CausalLMOutputWithPast(loss=loss, logits=logits_BTW, past_key_values=cache)
        is_dict = self.config.return_dict if return_dict is None else return_dict
        return found if is_dict else found.to_tuple()

    def _begins_together(self, ids_BT: Tensor) -> bool:
        """Whether all rows are equally many starts and then tokens alone, at least one."""
        n_starts = int((ids_BT[0] == self.start).sum())
        expected_T = torch.arange(ids_BT.shape[1], device=ids_BT.device) < n_starts
        return n_starts < ids_BT.shape[1] and bool(((ids_BT == self.start) == expected_T).all())

    def _extend(self, ids_BT: Tensor, state: State | None, *, n_read: int) -> tuple[Tensor, StateCache]:
        """(B, 1, W) logits after further tokens, and the cache that stands for all so far."""
        n_starts = int((ids_BT[0] == self.start).sum()) if state is None else 0
        if bool((ids_BT[:, n_starts:] == self.start).any()):
            raise ValueError(
                f"token {self.start}, the start of a text, stands after tokens that a cache stands for; "
                "give the whole text without a cache"
            )
        logits_BV, state = self.model.extend(ids_BT[:, n_starts:], state)
        return widen(logits_BV).unsqueeze(1), StateCache(state, n_read=n_read + ids_BT.shape[1])

    def _loss(self, logits_BTW: Tensor, labels_BT: Tensor) -> Tensor:
        """Mean cross entropy, in nats, of each label under the logits one position earlier."""
        labels_BT = labels_BT.to(logits_BTW.device)
        wanted = labels_BT.masked_fill(labels_BT == self.start, IGNORED)[:, 1:]
        return F.cross_entropy(
            logits_BTW[:, :-1].flatten(0, 1).float(), wanted.flatten(), ignore_index=IGNORED
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: StateCache | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,
        use_cache: bool | None = None,
        logits_to_keep: int = 1,
    ) -> dict[str, Any]:
        """The tokens that the cache does not stand for; all, at most seq_len, where there is none."""
        if attention_mask is not None:
            input_ids = input_ids.masked_fill(attention_mask == 0, self.start)
        seq_len, new = self.config.max_position_embeddings, input_ids
        if past_key_values is not None:
            new = input_ids[:, past_key_values.get_seq_length() :]
            fits = past_key_values.state.length + new.shape[1] <= seq_len
            # A row that is finished goes on in padding.
            if not fits or bool((new == self.start).any()):
                past_key_values, new = None, input_ids
        if past_key_values is None:
            new = new[:, -seq_len:]
        options = {"use_cache": use_cache, "logits_to_keep": logits_to_keep}
        return {"input_ids": new, "past_key_values": past_key_values, **options}
