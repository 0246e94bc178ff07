"""The embedded tiny backbone: a Llama of under a million parameters and its own tokenizer, both built in code.

The tokenizer has one token for each word and symbol of the `synth` task and for each of the 256 bytes, so that it
encodes any UTF-8 text and decodes it to the same text. Numbers are read digit by digit. With `model.words` the words
of another task have tokens of their own as well.
"""

from __future__ import annotations

import re
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, PreTrainedTokenizerFast

PAD, EOS, THINK_OPEN, THINK_CLOSE = "<pad>", "<eos>", "<think>", "</think>"
SPECIAL_TOKENS = (PAD, EOS, THINK_OPEN, THINK_CLOSE)
CONTEXT = 4096  # positions
INITIALIZER_RANGE = 0.06  # lower loss than the usual 0.02 after 200 to 400 steps on synth (0.18, 0.22 at 400; one seed)
NUM_NAMES = 32  # quantity names n0 .. n31
WORDS = (  # of several bytes; digits and operators are bytes already, the same ones in questions and in steps
    *(f"n{index}" for index in range(NUM_NAMES)),
    *("<<", ">>", "; ", ": ", "mod "),
)


def tiny_tokenizer(words: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """The embedded tokenizer: `n0=3+4; ` is 6 tokens, `<<3+4=7>>` 7; 297 entries and those of `words`, no BOS.

    Decoding is the exact inverse of encoding for any text; text that spells a special token becomes that token.
    Each call returns a new object: adding tokens to one leaves the others as they are.
    """
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_tokenizer_json(words)),
        pad_token=PAD,
        eos_token=EOS,
        extra_special_tokens=[THINK_OPEN, THINK_CLOSE],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def tiny_config(
    hidden_size: int = 128,
    num_layers: int = 3,
    num_heads: int = 4,
    mlp_size: int = 384,
    vocab_size: int | None = None,
) -> LlamaConfig:
    """Configuration of the embedded Llama: tied embeddings, rotary positions, a context of 4096.

    Args:
        vocab_size: None takes the size of `tiny_tokenizer()` without further words.
    Raises: ValueError: the heads do not divide `hidden_size` into even parts, which rotary positions need.
    """
    if hidden_size % (2 * num_heads):
        raise ValueError(
            f"model.hidden_size must be a multiple of 2 * model.num_heads = {2 * num_heads}, got {hidden_size}; "
            f"set model.hidden_size={max(1, hidden_size // (2 * num_heads)) * 2 * num_heads}"
        )
    tokenizer = tiny_tokenizer()
    return LlamaConfig(
        vocab_size=len(tokenizer) if vocab_size is None else vocab_size,
        hidden_size=hidden_size,
        intermediate_size=mlp_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=INITIALIZER_RANGE,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@cache
def _tokenizer_json(words: tuple[str, ...]) -> str:
    """The tokenizer as JSON, special tokens included.

    A byte-level BPE without merges: `ignore_merges` takes a piece that is in the vocabulary whole, every other piece
    falls apart into its bytes. The pieces are cut out by one regular expression made of the words themselves.
    """
    every = (*WORDS, *words)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())  # 256 printable characters, one per byte; "Ġ" is the space
    pieces = [*SPECIAL_TOKENS, *alphabet, *(word.replace(" ", "Ġ") for word in every)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    longest_first = sorted(every, key=len, reverse=True)  # n12 before n1
    pattern = Regex("|".join(re.escape(word) for word in longest_first))
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return str(tokenizer.to_str())
