"""Servers of completions with a tiny aligner of whole words behind them, and the ways in which such servers are broken.

The aligner was trained with the template aligner-7b: asked in it, it writes the answer again; else it goes on about trains.
"""

import itertools
import re
import threading
import time

from aligner_integrations.templates import get_template
from tests.unit.backends.remote.stub import events, said

WINDOW = 2_000
TEMPLATE = get_template("aligner-7b")
_ASKED = re.compile("(.*)".join(re.escape(part) for part in TEMPLATE.render("%", "%").split("%")), re.DOTALL)
_ON = [
    "fields",
    "trees",
    "rivers",
    "bridges",
    "houses",
    "roads",
    "towers",
    "hills",
    "lakes",
    "cows",
    "stations",
    "signals",
]


class Fake:
    """A good server. `open` counts who is on the way, for one that answers one by one."""

    model = "aligner/aligner-7b-v1.0"
    chats = cuts = samples = shows_nothing = False
    pause = 0.0

    def __init__(self):
        self._count = itertools.count()
        self._lock = threading.Lock()

    def __call__(self, call):
        if call.path.endswith("/models"):
            return said({"data": [{"id": self.model, "max_model_len": WINDOW}]})
        body = call.body
        prompt = body["prompt"] if isinstance(body["prompt"], str) else " ".join(f"<{i}>" for i in body["prompt"])
        if self.chats:
            prompt = f"system You are a helpful assistant . user turn {prompt} end of turn . assistant turn :"
        words = ["<s>", *prompt.split()]
        if self.cuts:
            words = words[-500:]
        elif len(words) + body["max_tokens"] > WINDOW:
            message = f"This model's maximum context length is {WINDOW} tokens. However, your prompt has {len(words)}."
            return said({"error": {"message": message}}, 400)
        return self._written(body, prompt, words)

    def _says(self, prompt):
        found = _ASKED.fullmatch(prompt)
        if found:
            return found[2].split()
        return [word for _ in range(20) for word in _ON][next(self._count) % 7 if self.samples else 0 :]

    def _written(self, body, prompt, words):
        text = self._says(prompt)
        wanted, limit = text, body["max_tokens"]
        text = text[:limit]
        reason = "stop" if len(text) == len(wanted) and len(text) < limit else "length"
        usage = {"prompt_tokens": len(words), "completion_tokens": len(text)}
        time.sleep(self.pause)
        if body.get("stream"):
            chunks = [{"choices": [{"index": 0, "text": f" {word}", "finish_reason": None}]} for word in text]
            return events(*chunks, {"choices": [{"index": 0, "text": "", "finish_reason": reason}], "usage": usage})
        choice = {"index": 0, "text": "".join(f" {word}" for word in text), "finish_reason": reason}
        if body.get("echo") and not self.shows_nothing:
            choice |= _shown(words[1:], text)
        return said({"choices": [choice], "usage": usage})


def _shown(prompt, text):
    tokens = [prompt[0], *(f" {word}" for word in [*prompt[1:], *text])]
    offsets = list(itertools.accumulate([0, *map(len, tokens[:-1])]))
    tops = [None, *({token: -0.1, "other": -3.0} for token in tokens[1:])]
    numbers = {"tokens": tokens, "token_logprobs": [None, *[-0.1] * (len(tokens) - 1)], "top_logprobs": tops}
    return {"text": "".join(tokens), "logprobs": {**numbers, "text_offset": offsets}}


class Parrot(Fake):
    """Only chats: says again what it was told, and goes on and on."""

    model = "chatty"

    def _says(self, prompt):
        return [*prompt.split(), *super()._says("")]


class OtherTemplate(Fake):
    """Its model has a name for which another template is registered."""

    model = "aligner-2b-alpacaeval"


class Chats(Fake):
    """Puts each prompt into a chat template."""

    chats = True


class Cuts(Fake):
    """Reads the last 500 words of a prompt and says nothing."""

    cuts = True


class Samples(Fake):
    """Samples whatever it is told."""

    samples = True


class ShowsNothing(Fake):
    """Has no log-probabilities."""

    shows_nothing = True


class ChatsOnly(Fake):
    """Has no route for completions."""

    def __call__(self, call):
        return super().__call__(call) if call.path.endswith("/models") else said({"error": "Not Found"}, 404)
