"""A real upstream: SmolLM2-135M-Instruct, as a chat model for LangChain and as an LLM for LlamaIndex."""

import threading
from functools import cache

import torch
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback

from aligner_integrations.backends.weights import load_base

LONGEST = 60
ROLES = {"human": "user", "ai": "assistant", "system": "system"}
_lock = threading.Lock()
_load = cache(load_base)


def say(messages):
    """The answer to [{"role", "content"}, ...], greedy."""
    with _lock, torch.inference_mode():
        model, tokenizer = _load("embedded")
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        end = tokenizer.eos_token_id
        output = model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False, eos_token_id=end, pad_token_id=end)
        return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


class SmolChat(BaseChatModel):
    """For LangChain."""

    @property
    def _llm_type(self):
        return "smollm2"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        text = say([{"role": ROLES[message.type], "content": message.text} for message in messages])
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])


class SmolLLM(CustomLLM):
    """For LlamaIndex."""

    @property
    def metadata(self):
        return LLMMetadata(context_window=2048, num_output=LONGEST, model_name="smollm2")

    @llm_completion_callback()
    def complete(self, prompt, formatted=False, **kwargs):
        return CompletionResponse(text=say([{"role": "user", "content": prompt}]))

    @llm_completion_callback()
    def stream_complete(self, prompt, formatted=False, **kwargs):
        text = ""
        for word in say([{"role": "user", "content": prompt}]).split(" "):
            delta = f" {word}" if text else word
            text += delta
            yield CompletionResponse(text=text, delta=delta)
