"""Random-weight checkpoints in the form of each release, and the model that each is, built from the same tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HEADERS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TEMPLATE = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>{{ m.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{% endif %}"
)
QUESTION = "Ann has 3  bags of 4. How many?"


def byte_tokenizer(*, llama: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: 257 ids with an EOS; as Llama's 260, with BOS, headers and a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if not llama:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    tokenizer.add_special_tokens(list(HEADERS))
    bos = (HEADERS[0], tokenizer.token_to_id(HEADERS[0]))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=HEADERS[0], eos_token=HEADERS[3], chat_template=TEMPLATE
    )


def widen(model: nn.Module) -> None:
    """Weights large enough that tokens are chosen with some variety."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)


def gpt2(folder: Path, *, seed: int = 0) -> GPT2LMHeadModel:
    """A base model with its tokenizer."""
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=256,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    widen(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def llama(
    folder: Path, *, rows: int | None = None, seed: int = 0, tied: bool = True, **config: Any
) -> LlamaForCausalLM:
    """A Llama with its tokenizer."""
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer(llama=True)
    settings = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 512, "tie_word_embeddings": tied,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
    } | config  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(vocab_size=rows or len(tokenizer), **settings)).eval()
    widen(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def projection(size: int, inner: int, *, seed: int = 1) -> nn.ModuleDict:
    """CODI's, by the release's names: 1 linear, 3 linear, ln."""
    torch.manual_seed(seed)
    layers = {"1": nn.Linear(size, inner), "3": nn.Linear(inner, size), "ln": nn.LayerNorm(size)}
    with torch.no_grad():
        for parameter in layers["ln"].parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return nn.ModuleDict(layers)


def project(prj: nn.ModuleDict, hidden: Tensor) -> Tensor:
    """Linear, exact GELU, Linear, LayerNorm."""
    out: Tensor = prj["ln"](prj["3"](nn.functional.gelu(prj["1"](hidden))))
    return out


def codi(
    base: Any, *, rank: int = 4, alpha: float = 1.0, extra: int = 3
) -> tuple[dict[str, Tensor], Any, nn.ModuleDict]:
    """The wrapper's state dictionary with a bfloat16 base and float32 adapters, the adapted model, its projection."""
    torch.manual_seed(2)
    base.resize_token_embeddings(base.config.vocab_size + extra, mean_resizing=False)
    targets = ["c_attn", "c_proj", "c_fc"]
    if base.config.model_type == "llama":
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    for parameter in base.parameters():  # not the buffers: rotary frequencies stay exact
        parameter.data = parameter.data.to(torch.bfloat16)
    adapted = get_peft_model(base, LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:  # B starts at zero, which would hide a missing merge
            parameter.data = torch.randn(parameter.shape) * 0.5
    prj = projection(base.config.hidden_size, 6)
    state = {f"codi.{name}": tensor.clone() for name, tensor in adapted.state_dict().items()}
    state |= {f"prj.{name}": tensor.clone() for name, tensor in prj.state_dict().items()}
    return state, adapted.float().eval(), prj


def coconut(base: Any) -> tuple[dict[str, Tensor], Any]:
    """Coconut's state dictionary, three of whose tensors are one, and the model."""
    torch.manual_seed(3)
    base.resize_token_embeddings(base.config.vocab_size + 3, mean_resizing=False)
    state = {f"base_causallm.{name}": tensor for name, tensor in base.state_dict().items()}
    return {**state, "embedding.weight": base.get_input_embeddings().weight.data}, base


def shard(state: dict[str, Tensor], folder: Path, num: int = 2) -> None:
    """Safetensors shards with their index."""
    names = sorted(state)
    files = [f"model-{i + 1:05d}-of-{num:05d}.safetensors" for i in range(num)]
    weight_map = {name: files[i % num] for i, name in enumerate(names)}
    for file in files:
        save_file({name: state[name].contiguous() for name in names if weight_map[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


class LatentHead(nn.Module):
    """CoLaR's, by the names of its releases; `log_std` where it is not deterministic."""

    def __init__(self, size: int, inner: int, *, spread: bool) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.fc = nn.Sequential(nn.Linear(size, inner), nn.GELU(), nn.Linear(inner, inner), nn.LayerNorm(inner))
        self.mean = nn.Linear(inner, size)
        if spread:
            self.log_std = nn.Linear(inner, size)

    def forward(self, hidden: Tensor) -> Tensor:
        """The mean."""
        mean: Tensor = self.mean(self.fc(hidden))
        return mean
