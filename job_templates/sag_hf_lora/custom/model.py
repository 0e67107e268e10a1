"""A small language model that reads bytes, and the LoRA adapter that is trained on it."""

import sys

import torch

try:
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    from fedsag_cli.client.hf import adapter_state
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed: pip install 'fedsag[hf]'")

BLOCK = 64  # bytes that the model sees at once


def base():
    """The base model: the same for all sites. A real job has AutoModelForCausalLM.from_pretrained(…) here."""
    torch.manual_seed(0)
    size = {"vocab_size": 256, "n_positions": BLOCK, "n_embd": 128, "n_layer": 2, "n_head": 4}
    return GPT2LMHeadModel(GPT2Config(**size, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0))


def with_adapter(model):
    """The model with an adapter that is trained; all else is frozen."""
    torch.manual_seed(0)
    layers = {"target_modules": ["c_attn", "c_fc", "c_proj"], "modules_to_save": ["lm_head"]}
    return get_peft_model(model, LoraConfig(r=16, lora_alpha=32, fan_in_fan_out=True, task_type="CAUSAL_LM", **layers))


class Adapter(torch.nn.Module):
    """What the server has: the adapter only, under PEFT's names."""

    def __init__(self):
        super().__init__()
        self._state = adapter_state(with_adapter(base()))

    def state_dict(self, *args, **kwargs):
        return self._state
