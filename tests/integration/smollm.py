"""A real upstream: SmolLM2-135M-Instruct, as a chat model for LangChain and as an LLM for LlamaIndex."""

import threading
from functools import cache

import torch
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from transformers import TextIteratorStreamer

from aligner_integrations.backends.local.loading import load_base

LONGEST = 60
ROLES = {"human": "user", "ai": "assistant", "system": "system"}
_lock = threading.Lock()
_load = cache(load_base)


def generate(messages, longest=LONGEST, stop=None, model="embedded", **options):
    """The tokens of the prompt and of the answer to [{"role", "content"}, ...], greedy, and the tokenizer."""
    with _lock, torch.inference_mode():
        llm, tokenizer = _load(model)
        if tokenizer.chat_template is None:
            inputs = tokenizer("\n".join(message["content"] for message in messages), return_tensors="pt")
        else:
            inputs = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        if stop:
            options.update(stop_strings=stop, tokenizer=tokenizer)
        ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.eos_token_id}
        output = llm.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=longest,
            do_sample=False,
            **ends,
            **options,
        )
        prompt = inputs["input_ids"].shape[1]
        return output[0, :prompt], output[0, prompt:], tokenizer


def say(messages):
    """The answer to [{"role", "content"}, ...], greedy."""
    _, answer, tokenizer = generate(messages)
    return tokenizer.decode(answer, skip_special_tokens=True).strip()


class SmolChat(BaseChatModel):
    """For LangChain. `model` is "embedded", which is SmolLM2, or a folder."""

    model: str = "embedded"
    longest: int = LONGEST

    @property
    def _llm_type(self):
        return "smollm2"

    @property
    def _identifying_params(self):
        return {"model": self.model, "longest": self.longest}

    def _get_ls_params(self, stop=None, **kwargs):
        named = kwargs.get("model") or self.model
        return {**super()._get_ls_params(stop=stop, **kwargs), "ls_model_name": named}

    def _told(self, messages, stop, kwargs, **options):
        asked = [{"role": ROLES[message.type], "content": message.text} for message in messages]
        model = kwargs.get("model") or self.model
        prompt, answer, tokenizer = generate(asked, self.longest, stop, model, **options)
        usage = {"input_tokens": len(prompt), "output_tokens": len(answer), "total_tokens": len(prompt) + len(answer)}
        text = tokenizer.decode(answer, skip_special_tokens=True).strip()
        for word in stop or []:
            text = text.partition(word)[0]
        return text, {"usage_metadata": usage, "response_metadata": {"model_name": model, "model_provider": "local"}}

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        text, told = self._told(messages, stop, kwargs)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text, **told))])

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        """Words as the model writes them; with stop words whole, because the last one is cut."""
        if stop:
            text, told = self._told(messages, stop, kwargs)
            yield self._chunk(text, run_manager, chunk_position="last", **told)
            return
        tokenizer = _load(kwargs.get("model") or self.model)[1]
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=120, skip_special_tokens=True)
        told = {}
        writing = threading.Thread(target=lambda: told.update(self._told(messages, stop, kwargs, streamer=streamer)[1]))
        writing.start()
        space, begun = "", False
        for piece in streamer:
            said = space + piece if begun else piece.lstrip()
            kept = said.rstrip()
            space, begun = said[len(kept) :], begun or bool(kept)
            if kept:
                yield self._chunk(kept, run_manager)
        writing.join()
        yield self._chunk("", run_manager, chunk_position="last", **told)

    def _chunk(self, text, run_manager, **told):
        chunk = ChatGenerationChunk(message=AIMessageChunk(content=text, **told))
        if run_manager:
            run_manager.on_llm_new_token(text, chunk=chunk)
        return chunk


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
