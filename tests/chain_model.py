"""A real model folder whose next token follows from the last one alone: it says what a test wants, in every engine."""

import itertools
from pathlib import Path


def write_chain_model(folder: Path, *pieces: str, then: str | None = None, padding: int = 0) -> None:
    """A one-layer Llama with the embedded tokenizer that says `pieces`, each one token after the other.

    A token may occur once only: what comes after it is always the same. Attention and MLP are there and add nothing.
    After the last piece comes `then`, one of the tokens before. The head has `padding` ids more than the tokenizer,
    which the model likes better than everything else.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from s1 import models

    tokenizer = AutoTokenizer.from_pretrained(models.resolve("embedded:smollm2-135m-instruct"))
    chain = [token for piece in pieces for token in tokenizer.encode(piece, add_special_tokens=False)]
    assert len(set(chain)) == len(chain), "a token of the chain occurs twice"
    config = LlamaConfig(
        vocab_size=len(tokenizer) + padding,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        loop = [] if then is None else tokenizer.encode(then, add_special_tokens=False)
        for last, following in itertools.pairwise([*chain, *loop]):
            model.lm_head.weight[following] += model.model.embed_tokens.weight[last] * 100
        model.lm_head.weight[len(tokenizer) :] = 2 * model.lm_head.weight.sum(0)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
