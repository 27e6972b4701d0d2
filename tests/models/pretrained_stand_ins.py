"""Folders that look like downloaded language models: made from a configuration, with words learned on the spot."""

from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from genrec.models.layers.text_tokenizer import train_words

WORDS = ["red green blue kettle lamp chair made of wood and glass", "Items that one person chose item_ , next"]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def words_of(size: int = 320):
    """A subword tokenizer of about this many entries."""
    return train_words(WORDS * 3, size)


def make(kind: str, **settings):
    """An untrained language model of some architecture, vectors for 400 words."""
    torch.manual_seed(1)
    if kind == "t5":
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
        return T5ForConditionalGeneration(T5Config(vocab_size=400, decoder_start_token_id=0, **{**sizes, **settings}))
    if kind == "llama":
        shape = {"num_key_value_heads": 2, "intermediate_size": 48, "tie_word_embeddings": True}
        return LlamaForCausalLM(LlamaConfig(vocab_size=400, **{**SHAPE, **shape, **settings}))
    if kind == "qwen3":
        shape = {"num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 48}
        return Qwen3ForCausalLM(Qwen3Config(vocab_size=400, **{**SHAPE, **shape, **settings}))
    if kind == "qwen3-moe":
        shape = {"num_key_value_heads": 2, "head_dim": 16, "moe_intermediate_size": 24, "intermediate_size": 48}
        experts = {"num_experts": 6, "num_experts_per_tok": 2, "mlp_only_layers": [0]}
        return Qwen3MoeForCausalLM(Qwen3MoeConfig(vocab_size=400, **{**SHAPE, **shape, **experts, **settings}))
    if kind == "mixtral":
        shape = {"num_key_value_heads": 2, "intermediate_size": 24, "num_local_experts": 4, "num_experts_per_tok": 2}
        return MixtralForCausalLM(MixtralConfig(vocab_size=400, **{**SHAPE, **shape, **settings}))
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, **settings))
    if kind == "opt":
        shape = {"ffn_dim": 48, "word_embed_proj_dim": 16, "dropout": 0.0}
        return OPTForCausalLM(OPTConfig(vocab_size=400, **{**SHAPE, **shape, **settings}))
    if kind == "bert":
        return BertLMHeadModel(BertConfig(vocab_size=400, intermediate_size=48, **{**SHAPE, **settings}))
    return MambaForCausalLM(MambaConfig(vocab_size=400, hidden_size=32, state_size=4, num_hidden_layers=2))


def save(folder: Path, kind: str, *, words=None, **settings) -> str:
    """Write such a model with its words, as a download would be, and return the folder's name."""
    make(kind, **settings).save_pretrained(folder)
    (words or words_of()).save_pretrained(str(folder))
    return str(folder)
