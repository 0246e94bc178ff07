"""Configurations of small random models of several architectures."""

from __future__ import annotations

from typing import Any

from transformers import Gemma3TextConfig, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}


def architecture(name: str, vocab_size: int) -> Any:
    """Configuration of a small random model."""
    sizes = {**SMALL, "vocab_size": vocab_size, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    match name:
        case "gpt2":
            return GPT2Config(
                vocab_size=vocab_size, n_embd=32, n_layer=3, n_head=4, n_positions=256,
                bos_token_id=None, eos_token_id=None, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            )  # fmt: skip
        case "llama":
            return LlamaConfig(**sizes, tie_word_embeddings=True)
        case "llama_untied":
            return LlamaConfig(**sizes, tie_word_embeddings=False)
        case "qwen2":
            return Qwen2Config(**{k: v for k, v in sizes.items() if k != "head_dim"}, tie_word_embeddings=False)
        case "qwen2_sliding":
            return Qwen2Config(
                **{k: v for k, v in sizes.items() if k != "head_dim"},
                use_sliding_window=True, sliding_window=5, max_window_layers=1,
            )  # fmt: skip
        case "qwen3":
            return Qwen3Config(**sizes, tie_word_embeddings=True)
        case "mistral_sliding":
            return MistralConfig(**sizes, sliding_window=5)
        case "gemma3":
            return Gemma3TextConfig(**sizes, sliding_window=5, final_logit_softcapping=3.0, query_pre_attn_scalar=8)
    raise ValueError(name)


ARCHITECTURES = ["gpt2", "llama", "llama_untied", "qwen2", "qwen2_sliding", "qwen3", "mistral_sliding", "gemma3"]
