"""Whether a server is asked in the words that its aligner was trained with: which template brings answers back."""

from __future__ import annotations

import re
import statistics

from aligner_integrations.backends.remote.responses import is_cut
from aligner_integrations.doctor.asking import Server
from aligner_integrations.doctor.finding import Finding
from aligner_integrations.errors import ConfigurationError, first_line
from aligner_integrations.templates import TEMPLATES, Template, get_template

# Answers that say what nobody would say by himself: whoever writes these words has read them.
_PROBES = (
    ("Where does the parrot Bruno sleep?", "Bruno sleeps in the blue kettle beside the green stove."),
    ("What did Ada pack for the trip?", "Ada packed seven lemons, a brass whistle and her grandfather's violin."),
    (
        "When does the ferry to Norland leave?",
        "The ferry to Norland leaves at noon, when the harbour bell rings twice.",
    ),
)
_ENOUGH = 0.5  # of the words of an answer, that a correction of it has again


def check_template(server: Server, name: str | None) -> Finding:
    """With the right template an aligner writes the answer again, more or less; with a wrong one it writes something else.

    Args:
        server: The server.
        name: The template that corrections will be asked with; None: the one of the model's name.
    """
    try:
        template = server.backend.template if name is None else get_template(name)
    except ConfigurationError as error:
        if name is not None:
            return Finding("template", "wrong", first_line(error), "Say another one with --template.")
        best = _best(server, set())
        mend = (
            f"With {best} answers come back: --template {best}, if this is an aligner."
            if best
            else "Say which with --template."
        )
        says = f"No template is known for {server.model!r}, and a wrong one would ruin its corrections in silence."
        return Finding("template", "wrong", says, mend)
    share, _ = _repeats(server, template)
    if share >= _ENOUGH:
        return Finding(
            "template", "good", f"With the template {template.name} answers come back, by {share:.0%} of their words."
        )
    best = _best(server, {template.name})
    found = f"With the template {template.name} an answer does not come back (only {share:.0%} of its words)"
    if best:
        return Finding("template", "wrong", f"{found}, with {best} it does.", f"--template {best}")
    return Finding(
        "template",
        "wrong",
        f"{found}, nor with any other one.",
        "Is this model an aligner? Its own template belongs into --template; a chat model can be told to correct: --chat-model.",
    )


def _best(server: Server, known: set[str]) -> str | None:
    """The template with which answers come back best, if they do with any, and end: what only chats goes on and on."""
    found = {
        name: _repeats(server, template)
        for name, template in TEMPLATES.items()
        if name not in known and not template.extra_fields
    }
    shares = {name: share if ended else 0.0 for name, (share, ended) in found.items()}
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] >= _ENOUGH else None


def _repeats(server: Server, template: Template) -> tuple[float, bool]:
    """The median share of an answer's words that its correction has again, and whether most corrections end by themselves."""
    shares, ended = [], 0
    fields = dict.fromkeys(template.extra_fields, "Helpful")
    for question, answer in _PROBES:
        said = server.say(template.render(question, answer, **fields), 64)
        words, again = _words(answer), _words(said.text)
        shares.append(len(words & again) / len(words))
        ended += not is_cut(said.reason)
    return statistics.median(shares), 2 * ended > len(_PROBES)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w{3,}", text.lower()))
