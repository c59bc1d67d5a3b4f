"""What others would run on a CPU: an aligner through llama.cpp, in this process, from a GGUF file made of the same weights.

Only to be compared with: one text at a time, greedy, with its own prompt lookup or plainly. How the file is written:
`backends/local/gguf_export.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from aligner_integrations.backends.base import Backend, Completion, Request
from aligner_integrations.backends.encoding import encode_completion, encode_prompt
from aligner_integrations.backends.limit import completion_limit
from aligner_integrations.backends.local.gguf_export import Kind, export_gguf
from aligner_integrations.backends.local.loading import load_merged
from aligner_integrations.errors import AlignerError, MissingDependencyError
from aligner_integrations.models import template_of
from aligner_integrations.templates import Template

KIND: Kind = "q8_0"
"""How the weights are packed: the smallest that hardly changes any text."""

# Prompt lookup keeps the logits of the whole window, 200 kB a token with 49,152 words.
_WINDOW = 2048
# As many as transformers' prompt lookup gets in `aligner bench decoding`, and llama-cpp-python's own default.
_LOOKED_UP = 10


class LlamaCppBackend(Backend):
    """Runs an aligner through the package llama-cpp-python.

    Args:
        model: Name of the aligner, whose tokenizer and template are used.
        gguf: The file that was made of it.
        tokenizer: The aligner's.
        lookup: Whether text is drafted from the prompt.

    Raises:
        MissingDependencyError: llama-cpp-python is not installed.
    """

    def __init__(self, model: str, gguf: Path, tokenizer: Any, *, lookup: bool) -> None:
        import_llama_cpp()
        self.name = model
        self.gguf = gguf
        self.tokenizer = tokenizer
        self.lookup = lookup
        self._llama: Any = None

    @property
    def template(self) -> Template:
        """The aligner's own."""
        return template_of(self.name)

    def load(self) -> None:
        """Load the file, with as many threads as torch uses."""
        llama_cpp = import_llama_cpp()
        draft = None
        if self.lookup:
            from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

            draft = LlamaPromptLookupDecoding(num_pred_tokens=_LOOKED_UP)
        threads = torch.get_num_threads()
        self._llama = llama_cpp.Llama(
            str(self.gguf),
            n_ctx=_WINDOW,
            n_threads=threads,
            n_threads_batch=threads,
            n_gpu_layers=0,
            draft_model=draft,
            verbose=False,
        )

    def forget(self) -> None:
        """Forget the text before, of which it would go on otherwise."""
        if self._llama is not None:
            self._llama.reset()

    def complete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """Write each text, one after another."""
        if self._llama is None:
            self.load()
        return [self._one(request) for request in requests]

    async def acomplete(self, requests: Sequence[Request]) -> list[Completion | AlignerError]:
        """Same as `complete`; a benchmark has nobody else to wait for."""
        return self.complete(requests)

    def _one(self, request: Request) -> Completion | AlignerError:
        prompt = encode_prompt(self.tokenizer, request.prompt)
        answer = encode_completion(self.tokenizer, request.completion_prefix, request.answer.strip())
        try:
            limit = completion_limit(_WINDOW, len(prompt), len(answer), request.max_new_tokens)
        except AlignerError as error:
            return error
        written: list[int] = []
        ended = False
        for token in self._llama.generate(prompt, temp=0.0, repeat_penalty=1.0):
            ended = token == self._llama.token_eos()
            if ended or len(written) == limit:
                break
            written.append(token)
        text = self.tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Completion(text, "stop" if ended else "length")


def import_llama_cpp() -> Any:
    """Return the package.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import llama_cpp
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "Comparing with llama.cpp needs its package, which pip compiles, with a C++ compiler, in some minutes: "
            "pip install llama-cpp-python",
            name="llama_cpp",
        ) from error
    return llama_cpp


def llama_cpp_ways(model: str, folder: Path) -> dict[str, LlamaCppBackend]:
    """Write an aligner as GGUF into a folder, and return the two ways in which llama.cpp decodes it.

    Raises:
        AlignerError: llama-cpp-python is not installed, or the aligner cannot be written.
    """
    import_llama_cpp()  # before the file, which takes its time
    merged, tokenizer, ends = load_merged(model)
    gguf = folder / "aligner.gguf"
    export_gguf(merged, tokenizer, ends, gguf, template=template_of(model), name=model, kind=KIND)
    return {
        name: LlamaCppBackend(model, gguf, tokenizer, lookup=lookup)
        for name, lookup in (("llama.cpp", False), ("llama.cpp, prompt lookup", True))
    }
