"""What a server must do for an aligner, one check after another; each says what it found and what mends it.

A check blames a server only for what it has seen, and says so where it could not look.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from functools import partial

from aligner_integrations.backends.remote import prompt_logprobs
from aligner_integrations.backends.remote.responses import is_cut
from aligner_integrations.backends.remote.window import says_too_long
from aligner_integrations.doctor.asking import Said, Server
from aligner_integrations.doctor.finding import Finding
from aligner_integrations.doctor.template import check_template
from aligner_integrations.errors import BackendError, first_line

_OPEN = "Write down everything that you can see from the window of a train:"
_WRAPPED = 8  # tokens beside a prompt's own: no tokenizer adds so many, a chat template does
_LENGTHS = (200, 800, 3200)  # words
_CALLERS = 32
_SLOW = 10.0  # seconds of one answer, after which nothing longer is asked for
_QUICK = 0.1  # seconds, within which a prompt is read before it can be told whether it was kept
_CACHED = 0.6  # of the time, below which a prompt that comes again was not read again


def examine(server: Server, template: str | None = None) -> Iterator[Finding]:
    """Yield what is found, check by check.

    Args:
        server: The server.
        template: The template that corrections will be asked with; None: the one of the model's name.
    """
    reached = _models(server)
    yield reached
    if reached.verdict == "wrong":
        return
    try:
        server.say("Hello", 1)
    except BackendError as error:
        yield Finding(
            "completions",
            "wrong",
            f"It does not continue a prompt: {first_line(error)}",
            "An aligner needs raw prompts, at /v1/completions. If the server only chats, its model can be told to correct: --chat-model.",
        )
        return
    for name, check in _CHECKS.items():
        yield _guarded(name, partial(check, server))
    yield _guarded("template", partial(check_template, server, template))


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except BackendError as error:
        return Finding(name, "unknown", f"It could not be seen: {first_line(error)}")


def _models(server: Server) -> Finding:
    try:
        rows = server.models()
    except BackendError as error:
        if server.model is not None:
            return Finding("model", "unknown", f"The server does not list its models: {first_line(error)}")
        return Finding("model", "wrong", first_line(error), "Name the URL up to /v1, and the model with --model.")
    names = [str(row.get("id")) for row in rows]
    if server.model is None:
        if len(names) != 1:
            listed = ", ".join(names[:5]) or "none"
            return Finding(
                "model", "wrong", f"The server has {len(names)} models ({listed}).", "Say which with --model."
            )
        server.model = names[0]
    # Some load any model that they are asked for, and list those that they have loaded.
    there = "which it lists" if server.model in names else "which it does not list"
    window = next((row[key] for row in rows for key in ("max_model_len", "context_length") if row.get(key)), None)
    tokens = f", with {window:,} tokens of context" if isinstance(window, int) else ""
    return Finding("model", "good", f"The model is {server.model}, {there}{tokens}.")


def _raw_prompts(server: Server) -> Finding:
    """One that puts a prompt into a chat template reads more tokens than the prompt has, however often its words stand in it."""
    text = "one two three four five"
    once, twice = (server.say(" ".join([text] * times), 1).prompt_tokens for times in (1, 2))
    if not once:
        return Finding("raw prompts", "unknown", "The server does not count the tokens that it reads.")
    more = 2 * once - twice
    if more >= _WRAPPED:
        return Finding(
            "raw prompts",
            "wrong",
            f"With each prompt {more} tokens are read that are not its own: the server puts it into a chat template, and an aligner that "
            "was not trained in one is ruined by it.",
            "Serve /v1/completions without a chat template; a proxy that turns completions into chats has to be passed by.",
        )
    added = "as it is" if more <= 0 else f"with {more} more token{'s' if more > 1 else ''} (the start of a text)"
    return Finding("raw prompts", "good", f"A prompt is read {added}.")


def _length(server: Server) -> Finding:
    """One that cuts prompts reads fewer tokens than are sent, and says nothing."""
    short, known = 0.0, 0
    for words in _LENGTHS:
        prompt = " ".join(str(number % 10) for number in range(words))
        try:
            said = server.say(prompt, 1)
        except BackendError as error:
            if says_too_long(str(error)):
                return Finding(
                    "length", "good", f"A prompt of {words:,} words is refused as too long: {first_line(error)}"
                )
            if known:
                return Finding(
                    "length", "good", f"Prompts of {known:,} words are read whole; longer ones: {first_line(error)}"
                )
            raise
        if not said.prompt_tokens:
            return Finding("length", "unknown", "The server does not count the tokens that it reads.")
        rate = said.prompt_tokens / words
        if short and rate < 0.7 * short:
            return Finding(
                "length",
                "wrong",
                f"Of a prompt of {words:,} words only {said.prompt_tokens:,} tokens are read: the server cuts long prompts and says "
                "nothing, so corrections lose what the aligner has not seen.",
                "Give it its whole context: llama.cpp -c 0, Ollama num_ctx, vLLM and SGLang without truncate_prompt_tokens, TGI without "
                "truncate.",
            )
        short, known = short or rate, words
        if said.seconds > _SLOW:
            break
    return Finding("length", "good", f"A prompt of {known:,} words is read whole ({said.prompt_tokens:,} tokens).")


def _greedy(server: Server) -> Finding:
    texts = [server.say(_OPEN, 24).text for _ in range(4)]
    different = len(set(texts))
    if different > 1:
        return Finding(
            "temperature 0",
            "wrong",
            f"The same prompt at temperature 0 gave {different} different texts in {len(texts)} tries: the server samples, or sets its own "
            "generation options over what it is asked.",
            "vLLM: --generation-config vllm. llama.cpp: no --temp. A proxy may drop the field.",
        )
    return Finding("temperature 0", "good", f"The same prompt gave the same text in {len(texts)} tries.")


def _ends(server: Server) -> Finding:
    said = server.say(_OPEN, 1)
    if said.reason is None:
        return Finding(
            "end of a text",
            "wrong",
            "The server does not say why a text ended, so nobody can tell a whole correction from a cut one.",
            "A newer version of the server, or another route to it: finish_reason belongs to the API.",
        )
    if not is_cut(said.reason) and said.completion_tokens > 1:
        return Finding(
            "end of a text",
            "wrong",
            f"Told to write 1 token, it wrote {said.completion_tokens}.",
            "It ignores max_tokens.",
        )
    return Finding("end of a text", "good", f"A text that is cut is said to be ({said.reason!r}).")


def _streaming(server: Server) -> Finding:
    whole, said = server.say(_OPEN, 24), server.stream(_OPEN, 24)
    if _letters(said.text) != _letters(whole.text) and server.say(_OPEN, 24).text == whole.text:
        return Finding(
            "streams", "wrong", "A stream holds another text than the whole response.", "Report it to the server."
        )
    if said.pieces < 2 and len(whole.text.split()) > 2:
        return Finding(
            "streams",
            "missing",
            "A stream comes in one piece, so nobody sees a correction before it is done.",
            "A proxy may collect it: nginx needs proxy_buffering off.",
        )
    return Finding("streams", "good", f"A text comes in {said.pieces} pieces.")


def _letters(text: str) -> str:
    """A text without what is lost where it is cut: white space around it, and halves of characters."""
    return "".join(letter for letter in text if letter.isalnum())


def _logprobs(server: Server) -> Finding:
    answer = None
    try:
        body = {
            name: value for name, value in prompt_logprobs.probe(server.model).items() if name in ("echo", "logprobs")
        }
        answer = server.say("The capital of France is", 4, **body).raw
    except BackendError as error:
        says = f"The server refuses to show the log-probabilities of a prompt: {first_line(error)}"
    else:
        if prompt_logprobs.is_sound(answer):
            return Finding("log-probabilities", "good", "It shows those of a prompt, so a gate by max_gap works.")
        says = "The server shows no log-probabilities of a prompt, or such as do not fit its own text."
    return Finding(
        "log-probabilities",
        "missing",
        f"{says} So there is no gate: each answer is written anew.",
        "vLLM and SGLang show them (echo with logprobs); llama.cpp's own server and TGI do not. Or give gate= a function.",
    )


def _token_ids(server: Server) -> Finding:
    refused = server.refusal([1, 2, 3])
    if refused is None:
        return Finding("token ids", "good", "Prompts may be token ids: with tokenizer= limits are exact.")
    return Finding(
        "token ids",
        "missing",
        "Prompts must be text; strings like </s> in them are broken up on the way there and put back on the way home.",
        "Nothing has to be done. vLLM and SGLang take token ids.",
    )


def _special_tokens(server: Server) -> Finding:
    parsed = []
    for string in ("</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>"):
        whole, broken = (server.say(f"one {text} two", 1) for text in (string, f"{string[0]} {string[1:]}"))
        if not whole.prompt_tokens:
            return Finding("special tokens", "unknown", "The server does not count the tokens that it reads.")
        if whole.prompt_tokens < broken.prompt_tokens - 1:
            parsed.append(string)
    if parsed:
        return Finding(
            "special tokens",
            "good",
            f"It reads {', '.join(parsed)} in a prompt as control tokens; such strings are broken up for it.",
        )
    return Finding("special tokens", "good", "It reads no common control token in the text of a prompt.")


def _prefixes(server: Server) -> Finding:
    """A prompt that comes again and is answered much faster was kept."""
    rates, longest = [], 0.0
    for turn in range(3):
        prompt = f"{turn} " + " ".join(str(number % 7) for number in range(400))
        first, again = server.say(prompt, 1), server.say(prompt, 1)
        rates.append(again.seconds / first.seconds)
        longest = max(longest, first.seconds)
    rate = statistics.median(rates)
    if longest < _QUICK:
        return Finding(
            "kept prefixes", "unknown", f"It reads 400 words within {1000 * longest:.0f} ms, too quick to tell."
        )
    if rate < _CACHED:
        return Finding("kept prefixes", "good", f"A prompt that comes again is answered {1 / rate:.0f} times as fast.")
    return Finding(
        "kept prefixes",
        "missing",
        f"A prompt that comes again takes {rate:.0%} of the time; it seems to be read anew.",
        "vLLM and SGLang keep prefixes by default. It matters where the gate reads an answer before it is corrected.",
    )


def _speed(server: Server) -> Finding:
    alone = server.say(_OPEN, 32)
    # If they wait for each other, all of them together shall not take for ever.
    tokens = max(2, min(32, int(2 * _SLOW * _tokens([alone]) / alone.seconds / _CALLERS)))
    together = server.side_by_side([f"{number}. {_OPEN}" for number in range(_CALLERS)], tokens)
    longest = max(said.seconds for said in together)
    rates = [_tokens([alone]) / alone.seconds, _tokens(together) / longest]
    said = f"{rates[0]:,.0f} tokens a second for one caller, {rates[1]:,.0f} for {_CALLERS} at once"
    if rates[1] < 1.5 * rates[0]:
        return Finding(
            "speed",
            "missing",
            f"{said}: they wait for each other.",
            "llama.cpp: llama-server -np 32 with a context for all of them; the server of llama-cpp-python knows no such flag. vLLM: --max-num-seqs. `transformers serve`: --continuous-batching.",
        )
    return Finding("speed", "good", f"{said}.")


def _tokens(said: list[Said]) -> float:
    return sum(one.completion_tokens or len(one.text.split()) for one in said)


_CHECKS: dict[str, Callable[[Server], Finding]] = {
    "raw prompts": _raw_prompts,
    "length": _length,
    "temperature 0": _greedy,
    "end of a text": _ends,
    "streams": _streaming,
    "log-probabilities": _logprobs,
    "token ids": _token_ids,
    "special tokens": _special_tokens,
    "kept prefixes": _prefixes,
    "speed": _speed,
}

CHECKS = ("model", *_CHECKS, "template")
"""What is looked at, in this order."""
