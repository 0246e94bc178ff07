"""Any decoder-only Hugging Face causal LM with its tokenizer, markers and adapters, behind few calls.

    prompt, encode, batch_*             text -> ids
    embed, mix                          ids -> input embeddings, through the embedding module (some scale inside it)
    forward                             embeddings without cache: side branches, all-layer distillation
    states                              the same without the LM head: encoders
    causal, logits_at_labels            one training pass with the LM head on selected positions alone
    prefill, step, extend, feed         a DecodeState forward in time
    fill                                prompts into a cache, without logits

`hidden` is what enters the output embedding (after the final norm): a hook on that module reads it, and can narrow it
to the positions that are needed, so that logits come from the model's own forward, soft-capping and scaling included.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from latbench.config import TINY, ModelConfig
from latbench.model.attention import BLOCK, SDPA_OR_FLEX, SequenceMask, takes_blocks
from latbench.model.batches import (
    IGNORE_INDEX,
    RolloutBatch,
    SequenceBatch,
    SharedPrompts,
    Supervise,
    Tokens,
    rollout_batch,
    sequence_batch,
)
from latbench.model.cache import DecodeCache, GrowingCache, causal_mask
from latbench.model.compiled import forward_compiled
from latbench.model.layout import CLOSE_MARKER, LAYOUTS, OPEN_MARKER, Layout
from latbench.model.loading import (
    add_markers,
    check_rows,
    ending_ids,
    from_hub,
    refuse_linear_attention,
    resolve_device,
    task_words,
    with_lora,
)
from latbench.model.tiny import tiny_config, tiny_tokenizer
from latbench.model.weights import fresh_model
from latbench.task import Example

UNBOUNDED = 1 << 20  # context of a model that names none
# transformers 5.23 renamed the property, and warns of the old name at every call
_CHECKPOINTS = next(
    name for name in ("is_activation_checkpointing", "is_gradient_checkpointing") if hasattr(PreTrainedModel, name)
)

_NO_CACHE = (
    "model.gradient_checkpointing is true, which silently drops the cache while training; set it to false for methods "
    "that roll out"
)


@dataclass
class Output:
    """One forward pass.

    Args:
        hidden: (batch, seq, hidden), or (1, items, hidden) where positions were selected.
        logits: the same with vocab.
        layers: (batch, seq, hidden) at all positions, where asked for: the embeddings, then what each block puts out,
            the last after the final norm.
    """

    hidden: Tensor
    logits: Tensor
    layers: tuple[Tensor, ...] | None = None


@dataclass
class DecodeState:
    """A batch somewhere in its sequence. Spent once stepped: its cache changes in place.

    Args:
        cache: keys and values so far.
        lengths: (batch,) tokens so far, the next position.
        hidden: (batch, hidden) and logits: (batch, vocab) at each row's last token.
    """

    cache: DecodeCache
    lengths: Tensor
    hidden: Tensor
    logits: Tensor


class Backbone(nn.Module):
    """A language model, its tokenizer and its layout; see the module docstring.

    Args:
        model: a causal LM.
        tokenizer: with EOS.
        config: what was asked for.
        name: of the backbone in tables.
        markers: use think markers (added to the tokenizer where it has none).
        seed: of the added rows.

    Raises: ValueError: no EOS token, generation settings whose EOS is no id, or a model with linear attention.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: ModelConfig,
        *,
        name: str,
        markers: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        refuse_linear_attention(model.config)
        self.config = config
        self.name = name
        self.tokenizer = tokenizer
        check_rows(model, tokenizer)
        ending_ids(model.generation_config, name)
        needs_think_tokens = markers and LAYOUTS[config.layout].markers and config.markers is None
        added = add_markers(model, tokenizer, seed) if needs_think_tokens else []
        has_think_tokens = {OPEN_MARKER, CLOSE_MARKER} <= set(tokenizer.get_added_vocab())
        template = config.chat_template
        if template is None:
            template = tokenizer.chat_template is not None and config.weights == "pretrained"
        elif template and tokenizer.chat_template is None:
            raise ValueError(f"model.chat_template is true but the tokenizer of {name} has none; set it to false")
        self.layout = Layout(
            config.layout,
            tokenizer,
            chat_template=template,
            instruction=config.instruction,
            markers=config.markers or ((OPEN_MARKER, CLOSE_MARKER) if has_think_tokens else None),
        )
        num_rows = model.get_output_embeddings().weight.shape[0]
        never = getattr(model.generation_config, "suppress_tokens", None) or []
        suppressed = sorted({token for token in never if type(token) is int and 0 <= token < num_rows})
        self.suppressed: Tensor
        self.register_buffer("suppressed", torch.tensor(suppressed, dtype=torch.long), persistent=False)
        self.takes_blocks = config.attention == "sdpa" and takes_blocks(model)
        if self.takes_blocks:
            model.set_attn_implementation(SDPA_OR_FLEX)
        self.flex: bool | None = None  # FlexAttention for rules, if the model takes it; None: where it pays
        self.model: Any = model if config.lora is None else with_lora(model, config.lora, added)
        if config.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        # language part of the configuration, and positions the model was built for; kept, since looking them up is slow
        self.text_config: Any = model.config.get_text_config()
        self.context = int(getattr(self.text_config, "max_position_embeddings", None) or UNBOUNDED)
        self.frozen_names = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        self._input_device: torch.device | None = None  # of a model over several devices
        self._select: Tensor | None = None
        self._hidden: Tensor | None = None
        self._hook = self.model.get_output_embeddings().register_forward_pre_hook(self._read_hidden)

    @classmethod
    def load(
        cls,
        config: ModelConfig,
        *,
        seed: int = 0,
        markers: bool = True,
        name: str | None = None,
        trust_remote_code: bool = False,
    ) -> Backbone:
        """The backbone that `config` describes, on its device; on "meta", fresh weights without storage.

        Args:
            seed: of fresh weights, and of whatever is drawn next from torch's global generator (a method's heads).
            markers: see the class.
            name: see the class.
            trust_remote_code: run Python files that lie beside the model.
        Raises: ValueError: the model is not at hand, its weights do not fit, it has no EOS token, or its device is
            absent.
        """
        device = resolve_device(config.device)
        if config.id == TINY:
            tokenizer = tiny_tokenizer(task_words(config.words))
            sizes = config.hidden_size, config.num_layers, config.num_heads, config.mlp_size
            shape = tiny_config(*sizes, vocab_size=len(tokenizer))
            model = fresh_model(shape, seed=seed, attention=config.attention, device=device)
        else:
            model, tokenizer = from_hub(config, seed=seed, device=device, trust_remote_code=trust_remote_code)
            if config.weights == "pretrained":
                torch.manual_seed(seed)
        if config.dtype != "auto":
            model = model.to(getattr(torch, config.dtype))
        backbone = cls(model, tokenizer, config, name=name or config.name, markers=markers, seed=seed).eval()
        if config.device_map is not None and device.type != "meta":
            return backbone.spread(config.device_map)
        return backbone.to(device)

    def spread(self, device_map: str) -> Backbone:
        """Place the model over several devices, for inference; see `ModelConfig.device_map`.

        Raises: ValueError: the map cannot be read, does not fit the model or asks for an absent device.
        """
        from latbench.model.placement import spread

        device = spread(self.model, device_map)
        self.to(device)  # what is not the model's
        self._input_device = device
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Backbone:
        """Leaves the modules of a spread model where they are."""
        spread = self._input_device is not None or hasattr(self.model, "hf_device_map")
        applied: Backbone = super()._apply(fn, recurse=recurse and not spread)
        return applied

    # text -> ids

    def prompt(self, question: str, note: str = "") -> list[int]:
        """Ids fed before the first decision, the open marker included; note: see `Layout.prompt`."""
        return list(self.layout.prompt(question, note))

    def closed_prompt(self, question: str) -> list[int]:
        """The prompt of a model that does not reason: open and close marker, then the answer."""
        return [*self.layout.prompt(question), *self.layout.close]

    def encode(self, text: str) -> list[int]:
        """Ids of a raw prompt: no template, no markers."""
        return list(self.layout.raw(text))

    def batch_sequences(self, examples: Sequence[Example], supervise: Supervise) -> SequenceBatch:
        """One right-padded sequence per example with labels; see `batches.sequence_batch`."""
        return sequence_batch([self.layout.encode(example) for example in examples], supervise)

    def batch_rollout(self, examples: Sequence[Example]) -> RolloutBatch:
        """Question and target apart, for methods that take latent steps in between; see `batches.rollout_batch`."""
        return rollout_batch([self.layout.encode(example) for example in examples])

    def num_step_tokens(self, example: Example) -> int:
        """Length of the gold chain under this tokenizer, joiners included."""
        return len(self.layout.steps(example.steps))

    def too_long(self, example: Example) -> str | None:
        """Why an example does not fit the context, or None."""
        return self.beyond_context(len(self.layout.encode(example)))

    def beyond_context(self, length: int) -> str | None:
        """Why a sequence of so many positions does not fit the context, or None."""
        return None if length <= self.context else "longer than the context"

    @property
    def eos_ids(self) -> list[int]:
        """Ids that end an answer: the tokenizer's EOS and those of the model's generation settings."""
        return sorted({self.layout.eos, *ending_ids(self.model.generation_config, self.name)})

    def sayable(self, logits: Tensor) -> Tensor:
        """(batch, vocab) logits of text, without the tokens that the model's generation settings suppress."""
        return logits.index_fill(-1, self.suppressed, -torch.inf) if len(self.suppressed) else logits

    @property
    def device(self) -> torch.device:
        """Where the model lives; of a model over several devices, where it takes its input."""
        return next(self.parameters()).device if self._input_device is None else self._input_device

    @property
    def hidden_size(self) -> int:
        """Width of an input embedding."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    # ids -> embeddings

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings: (...) ids -> (..., hidden)."""
        embeds: Tensor = self.model.get_input_embeddings()(ids)
        return embeds

    def mix(self, ids: Tensor | None, weights: Tensor) -> Tensor:
        """Weighted sum of input embeddings, in float32: (..., top_k) ids and weights -> (..., hidden).

        Args:
            ids: None: the weights are (..., vocab), of the whole vocabulary.
        """
        rows = self.embed(torch.arange(weights.shape[-1], device=weights.device) if ids is None else ids)
        with torch.autocast(rows.device.type, enabled=False):
            wide = weights.float(), rows.float()
            mixed = wide[0] @ wide[1] if ids is None else (wide[0][..., None, :] @ wide[1])[..., 0, :]
        return mixed.to(rows.dtype)

    @property
    def tables(self) -> tuple[str, str]:
        """Prefixes of the parameter names of input and output embeddings; the tables are one where they are tied."""
        modules = {id(module): f"{name}." for name, module in reversed(list(self.named_modules()))}
        return modules[id(self.model.get_input_embeddings())], modules[id(self.model.get_output_embeddings())]

    # forward passes

    def forward(
        self,
        embeds: Tensor,
        positions: Tensor,
        allowed: Tensor | SequenceMask,
        *,
        layers: bool = False,
        select: Tensor | None = None,
        cache: DecodeCache | None = None,
        key_positions: Tensor | None = None,
    ) -> Output:
        """The model on given embeddings under a given mask.

        Args:
            embeds: (batch, seq, hidden).
            positions: (batch, seq).
            allowed: which key each query sees, (batch, 1, seq, keys) bool or a rule. Sliding windows are cut from it
                here.
            layers: also return every layer's hidden states.
            select: positions whose logits are needed, (batch, seq) bool; None: all.
            cache: of cached decoding.
            key_positions: of cached decoding: (batch, keys) position of every key column.
        Raises: ValueError: a cache with gradient checkpointing on (transformers would drop the cache silently).
        """
        if cache is not None:
            self._refuse_checkpointing()
        keys = positions if key_positions is None else key_positions
        spans = cache.spans() if cache is not None and self.takes_blocks and embeds.shape[1] == 1 else None
        output, hidden = self._run(
            select=select,
            compiled=cache is not None and cache.fixed and embeds.shape[1] == 1,
            inputs_embeds=embeds,
            position_ids=positions,
            attention_mask=self._attention_mask(allowed, positions, keys, embeds.dtype),
            past_key_values=None if cache is None else cache.hf,
            use_cache=cache is not None,
            output_hidden_states=layers,
            **({} if spans is None else {"spans": spans}),
        )
        return Output(hidden, output.logits, output.hidden_states if layers else None)

    def states(self, embeds: Tensor, positions: Tensor, allowed: Tensor | SequenceMask) -> Tensor:
        """Hidden states after the final norm, (batch, seq, hidden); as `forward`, without the LM head."""
        output = self.model.get_decoder()(
            inputs_embeds=embeds,
            position_ids=positions,
            attention_mask=self._attention_mask(allowed, positions, positions, embeds.dtype),
            use_cache=False,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def causal(
        self,
        embeds: Tensor,
        positions: Tensor,
        select: Tensor,
        *,
        layers: bool = False,
        prompts: SharedPrompts | None = None,
    ) -> Output:
        """Plain causal pass over right-padded sequences.

        Right padding under a causal mask cannot reach a real token, so no mask is passed and fast kernels apply.

        Args:
            embeds: (batch, seq, hidden).
            positions: (batch, seq), 0, 1, 2 ... also over the padding (positions that start anew would be taken for
                packed sequences).
            select: (batch, seq) bool, where logits are needed.
            layers: also return every layer's hidden states.
            prompts: what rows begin with alike, where no logits are needed; it is computed once (with gradient
                checkpointing, which allows no cache, in each row).
        Returns: hidden (items, hidden) and logits (items, vocab), in row-major order.
        """
        if prompts is not None and not self._checkpoints:
            return self._after_prompts(embeds, select, prompts)
        output, hidden = self._run(
            select=select,
            inputs_embeds=embeds,
            position_ids=positions,
            use_cache=False,
            output_hidden_states=layers,
        )
        return Output(hidden[0], output.logits[0], output.hidden_states if layers else None)

    def _after_prompts(self, embeds: Tensor, select: Tensor, prompts: SharedPrompts) -> Output:
        """`causal` by a pass over the prompts, and one over what each row has after its own."""
        width, cache = int(prompts.lengths.max()), GrowingCache()
        if width:
            columns = torch.arange(width, device=embeds.device).expand(len(prompts.first), width)
            valid = columns < prompts.lengths[:, None]
            self.advance(cache, embeds[prompts.first, :width], columns, valid, select=torch.zeros_like(valid))
            cache.repeat(prompts.of_row)
        begin = prompts.lengths[prompts.of_row][:, None]
        ends = torch.where(select, torch.arange(select.shape[1], device=embeds.device) + 1, 0).amax(1, keepdim=True)
        places = begin + torch.arange(max(int((ends - begin).max()), 1), device=embeds.device)
        valid = places < ends
        inside = places.clamp(max=select.shape[1] - 1)
        rest = embeds.gather(1, inside[..., None].expand(*inside.shape, embeds.shape[-1]))
        output = self.advance(cache, rest, places, valid, select=select.gather(1, inside) & valid)
        return Output(output.hidden[0], output.logits[0])

    def logits_at_labels(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Logits where something is supervised, from one causal pass: (items, vocab) and their (items,) labels."""
        supervised = tokens.labels != IGNORE_INDEX
        return self.causal(self.embed(tokens.ids), tokens.positions, supervised).logits, tokens.labels[supervised]

    def prefill(self, tokens: Tokens, cache: DecodeCache | None = None) -> DecodeState:
        """Run right-padded prompts; a growing cache unless one is given."""
        cache = GrowingCache() if cache is None else cache
        last = tokens.mask & (tokens.positions == tokens.lengths[:, None] - 1)
        output = self.advance(cache, self.embed(tokens.ids), tokens.positions, tokens.mask, select=last)
        return DecodeState(cache, tokens.lengths, output.hidden[0], output.logits[0])

    def step(self, state: DecodeState, embeds: Tensor, active: Tensor | None = None) -> DecodeState:
        """One position: (batch, hidden) embeddings; rows that are not active keep their state."""
        active = torch.ones_like(state.lengths, dtype=torch.bool) if active is None else active
        output = self.advance(state.cache, embeds[:, None], state.lengths[:, None], active[:, None])
        hidden = torch.where(active[:, None], output.hidden[:, 0], state.hidden)
        logits = torch.where(active[:, None], output.logits[:, 0], state.logits)
        return DecodeState(state.cache, state.lengths + active, hidden, logits)

    def extend(self, state: DecodeState, tokens: Tokens) -> Tensor:
        """Logits that predict the right-padded tokens after the state: (batch, seq, vocab), row t for token t."""
        return torch.cat([state.logits[:, None], self.feed(state, tokens).logits[:, :-1]], dim=1)

    def feed(self, state: DecodeState, tokens: Tokens, *, layers: bool = False) -> Output:
        """The right-padded tokens after the state: the output at token t, whose logits predict token t + 1."""
        positions = state.lengths[:, None] + tokens.positions
        return self.advance(state.cache, self.embed(tokens.ids), positions, tokens.mask, layers=layers)

    def advance(
        self,
        cache: DecodeCache,
        embeds: Tensor,
        positions: Tensor,
        valid: Tensor,
        *,
        rows: Tensor | None = None,
        select: Tensor | None = None,
        layers: bool = False,
    ) -> Output:
        """Forward through a cache: (batch, seq, hidden) embeddings at (batch, seq) positions; see DecodeCache.

        What is not valid stands at position 0: padding after a long row may lie beyond a table of learned positions.
        """
        positions = torch.where(valid, positions, 0)
        key_positions = cache.reserve(positions, valid, rows)
        allowed = causal_mask(positions, key_positions)
        return self.forward(
            embeds, positions, allowed, layers=layers, select=select, cache=cache, key_positions=key_positions
        )

    def fill(self, cache: DecodeCache, tokens: Tokens, rows: Tensor) -> None:
        """Run right-padded tokens through the cache alone, from where these slots begin; without the LM head.

        Args:
            tokens: with their positions in the sequence.
            rows: (batch,) slots.
        Raises: ValueError: see `forward`.
        """
        self._refuse_checkpointing()
        positions = torch.where(tokens.mask, tokens.positions, 0)
        key_positions = cache.reserve(positions, tokens.mask, rows)
        embeds = self.embed(tokens.ids)
        allowed = causal_mask(positions, key_positions)
        self.model.get_decoder()(
            inputs_embeds=embeds,
            position_ids=positions,
            attention_mask=self._attention_mask(allowed, positions, key_positions, embeds.dtype),
            past_key_values=cache.hf,
            use_cache=True,
        )

    # checkpoint

    def save(self, folder: Path) -> None:
        """A plain Hugging Face model and its tokenizer; LoRA merged in float32, the adapter kept in `adapter/`."""
        model = self.model
        if self.config.lora is not None:
            model.save_pretrained(folder / "adapter", save_embedding_layers=False)
            self._hook.remove()  # or the copy would take this backbone along
            model = copy.deepcopy(model).float().merge_and_unload()
            self._hook = self.model.get_output_embeddings().register_forward_pre_hook(self._read_hidden)
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def require_cache(self) -> None:
        """Refuse gradient checkpointing; for `check_training` of a method that feeds latents through a cache.

        Raises: ValueError: it is on.
        """
        if self.config.gradient_checkpointing:
            raise ValueError(_NO_CACHE)

    # inner

    @property
    def _checkpoints(self) -> bool:
        """Whether activations are computed again in the backward pass."""
        return bool(self.model.training and getattr(self.model, _CHECKPOINTS))

    def _refuse_checkpointing(self) -> None:
        if self._checkpoints:
            raise ValueError(_NO_CACHE)

    def _run(self, *, select: Tensor | None, compiled: bool = False, **inputs: Any) -> tuple[Any, Tensor]:
        """The model's own forward, and what entered its output embedding."""
        self._select = select
        try:
            output = forward_compiled(self.model, self.device, **inputs) if compiled else self.model(**inputs)
            assert self._hidden is not None
            hidden = self._hidden.to(output.logits.device)
            if compiled:  # the next replay of a graph writes over them
                output.logits, hidden = output.logits.clone(), hidden.clone()
            return output, hidden
        finally:
            self._select = self._hidden = None

    def _read_hidden(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = inputs[0] if self._select is None else inputs[0][self._select.to(inputs[0].device)][None]
        self._hidden = hidden
        return (hidden, *inputs[1:])

    def _attention_mask(self, allowed: Tensor | SequenceMask, queries: Tensor, keys: Tensor, dtype: torch.dtype) -> Any:
        """The mask in the form the model takes: bool for SDPA, additive for eager, a dict for layer-typed models.

        A rule becomes blocks under FlexAttention, which takes no dense (batch, seq, seq) mask.

        A bool mask is silently wrong under eager attention, and minus infinity there gives NaN on padded rows. A query
        that sees nothing (padding, or beyond a window) sees everything: nobody reads it, but a NaN of its would spread.
        """
        config = self.text_config
        types = set(getattr(config, "layer_types", None) or ())
        if isinstance(allowed, SequenceMask):
            if self._flex_applies(queries.shape[1], dtype):
                blocks = allowed.blocks()
                return dict.fromkeys(types, blocks) if types else blocks
            allowed = allowed.dense()

        def form(mask: Tensor) -> Tensor:
            mask = mask | ~mask.any(-1, keepdim=True)
            if self.model.config._attn_implementation != "eager":
                return mask
            return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)

        window = getattr(config, "sliding_window", None)
        if window is None:
            sliding = allowed
        else:
            distance = queries[:, None, :, None] - keys[:, None, None, :]
            sliding = allowed & (distance < window)
        if types:
            return {kind: form(sliding if kind == "sliding_attention" else allowed) for kind in types}
        return form(sliding)

    def _flex_applies(self, seq: int, dtype: torch.dtype) -> bool:
        """Whether rules are read in blocks: on CUDA (a CPU has no backward pass for it), in sizes its kernels take."""
        if not self.takes_blocks or self.flex is not None:
            return self.takes_blocks and bool(self.flex)
        config = self.text_config
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return self.device.type == "cuda" and seq > BLOCK and head_size >= 16 and dtype != torch.float64
