"""Prompt templates, one per checkpoint family, and the registry from model to template.

A wrong template silently ruins an aligner, so every space and newline here is part of the weights' contract. The
texts are those of the sources named beside them. What lives elsewhere: turning a prompt into tokens (`backends/encoding.py`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aligner_integrations.errors import ConfigurationError, UnknownTemplateError, did_you_mean

_FIELD = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True)
class Template:
    """How a question and an answer become the aligner's prompt.

    Attributes:
        name: Name in the registry, or any name of your own.
        text: The prompt with `{question}`, `{answer}` and, for some families, further `{fields}`. Text of the data is
            never formatted: braces in it stay braces.
        completion_prefix: White space that training put between the prompt and the correction. It belongs to the
            template, not to the correction.
        source: Where the text comes from.
    """

    name: str
    text: str
    completion_prefix: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        missing = {"question", "answer"} - set(_FIELD.findall(self.text))
        if missing:
            raise ConfigurationError(
                f"Template {self.name!r} lacks {' and '.join('{' + name + '}' for name in sorted(missing))}; "
                "a template needs both {question} and {answer}."
            )
        if self.completion_prefix.strip():
            raise ConfigurationError(
                f"completion_prefix of template {self.name!r} is {self.completion_prefix!r}; it may hold white space only."
            )

    @property
    def extra_fields(self) -> tuple[str, ...]:
        """Fields besides question and answer, in order of appearance."""
        return tuple(_extra_fields(self.text))

    def check(self, fields: Mapping[str, str]) -> None:
        """See that these are the template's extra fields.

        Raises:
            ConfigurationError: A field is missing, unknown or not a string.
        """
        self._check_names(fields)
        self._check_strings(fields)

    def _check_names(self, fields: Mapping[str, str]) -> None:
        if fields.keys() != _extra_fields(self.text).keys():
            raise ConfigurationError(
                f"Template {self.name!r} takes the extra fields {list(self.extra_fields)}, got {sorted(fields)}."
            )

    def _check_strings(self, values: Mapping[str, Any]) -> None:
        if wrong := [name for name, value in values.items() if not isinstance(value, str)]:
            raise ConfigurationError(f"{' and '.join(wrong)} must be strings to be put into template {self.name!r}.")

    def render(self, question: str, answer: str, **fields: str) -> str:
        """Return the prompt.

        Args:
            question: The user's words.
            answer: The upstream's answer.
            **fields: The template's extra fields (see `extra_fields`), such as `aspects` of MetaAligner.

        Raises:
            ConfigurationError: A field is missing, unknown or not a string.
        """
        values = {"question": question, "answer": answer, **fields}
        self._check_names(fields)
        self._check_strings(values)
        return _filled(self.text, values)

    def opening(self, question: str, answer: str, **fields: str) -> str:
        """Return the prompt up to the end of an answer that may still be growing; the rest is as for `render`."""
        return _filled(self.text.partition("{answer}")[0], {"question": question, **fields}) + answer

    def to_dict(self) -> dict[str, str]:
        """Return plain data for `aligner_config.json`."""
        return {
            "name": self.name,
            "text": self.text,
            "completion_prefix": self.completion_prefix,
            "source": self.source,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Template:
        """Read what `to_dict` wrote.

        Raises:
            ConfigurationError: A key is missing, unknown or not a string.
        """
        known = {"name", "text", "completion_prefix", "source"}
        bad = [k for k, v in data.items() if k not in known or not isinstance(v, str)]
        if bad or not {"name", "text"} <= set(data):
            raise ConfigurationError(
                f"A template needs the strings name and text (and may have {sorted(known)}), got {dict(data)!r}."
            )
        return cls(**data)


@functools.lru_cache
def _extra_fields(text: str) -> dict[str, None]:
    return dict.fromkeys(field for field in _FIELD.findall(text) if field not in ("question", "answer"))


@functools.lru_cache
def _parts(text: str) -> tuple[list[str], list[str]]:
    """What stands before, between and behind the fields of a template, and their names."""
    parts = _FIELD.split(text)
    return parts[::2], parts[1::2]


def _filled(text: str, values: Mapping[str, str]) -> str:
    """Fill in the fields of the template's own text: "{answer}" inside a question stays what it is."""
    own, fields = _parts(text)
    return "".join([part for pair in zip(own, [*map(values.__getitem__, fields), ""], strict=True) for part in pair])


def _wrapped(text: str) -> str:
    """The conversation wrapper of the authors' repository (constants.py): no space after `ASSISTANT:`."""
    return f"BEGINNING OF CONVERSATION: USER: {text} ASSISTANT:"


_META = (
    "You are an assistant to human. You will be provided with a context and an answer. Consider the context, then edit "
    "the answer to improve it considering these aspects: {aspects} | Context: {question} | Answer: {answer} | Edit: "
)
_META_ULTRA = (
    "You are an assistant to human. You will be provided with a query and an answer. Consider the query, then edit "
    "the answer to improve it considering these aspects: {aspects} | Query: {question} | Answer: {answer} | Edit: "
)

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        Template(
            "aligner-7b",
            _wrapped(
                "Edit the following Question-Answer pair to make it more helpful and harmless: {question} | {answer}"
            ),
            source="PKU-Alignment/aligner, template of the public weights aligner/aligner-7b-v1.0",
        ),
        Template(
            "aligner-2b-alpacaeval",
            _wrapped("##Question: {question} ##Answer: {answer} ##Revision: "),
            source="tatsu-lab/alpaca_eval, prompt.txt of the Aligner-2B leaderboard entries",
        ),
        Template(
            "aligner-repo",
            _wrapped("##Question: {question}\n##Answer: {answer}\n##Correction: "),
            source="PKU-Alignment/aligner since 29da040 (2024-12-11)",
        ),
        Template(
            "paper",
            "BEGINNING OF CONVERSATION:\nUSER: Editing the following Question-Answer pair to make it more helpful and "
            "harmless:\nQuestion: {question} | Answer: {answer}\nASSISTANT:",
            source="arXiv 2402.02416, Algorithm 1",
        ),
        Template(
            "empathy",
            _wrapped(
                "Edit the following Question-Answer pair to make it more empathic and helpful: {question} | {answer}"
            ),
            source="PKU-Alignment/aligner, empathy.py",
        ),
        Template(
            "stream",
            _wrapped(
                "##Question: {question} | ##Answer_Prefix: {prefix} | ##Answer_Last_Sentence: {answer} | ##Your_Revision: "
            ),
            source="Stream Aligner, arXiv 2501.05336, htlou/stream-aligner",
        ),
        Template(
            "thought",
            _wrapped(
                "Edit the following Instruction-Thought pair to make it more helpful and harmless. : {question} | {answer}"
            ),
            source="Thought-Aligner, arXiv 2505.11063, WhitzardAgent/Thought-Aligner",
        ),
        Template("metaaligner-hh", _META, source="MetaAligner, arXiv 2403.17141, HH-RLHF checkpoints"),
        Template(
            "metaaligner-ultrafeedback", _META_ULTRA, source="MetaAligner, arXiv 2403.17141, UltraFeedback checkpoints"
        ),
        Template(
            "metaaligner-imhi",
            'Edit the following Question-Answer pair to make it better considering these aspects "{aspects}" | '
            "Question: {question} | Answer: {answer} | Edit: ",
            source="MetaAligner, arXiv 2403.17141, IMHI checkpoints",
        ),
        Template(
            "embedded",
            "##Question: {question}\n##Answer: {answer}\n##Correction:",
            completion_prefix=" ",
            source="this package: the body of aligner-repo without the conversation wrapper, which a small model pays for "
            "in every prompt",
        ),
    )
}

MODEL_TEMPLATES: dict[str, str] = {
    "aligner/aligner-7b-v1.0": "aligner-7b",
    "WhitzardAgent/Thought-Aligner-7B": "thought",
    "MetaAligner/MetaAligner-HH-RLHF-1.1B": "metaaligner-hh",
    "MetaAligner/MetaAligner-HH-RLHF-7B": "metaaligner-hh",
    "MetaAligner/MetaAligner-HH-RLHF-13B": "metaaligner-hh",
    "MetaAligner/MetaAligner-UltraFeedback-1.1B": "metaaligner-ultrafeedback",
    "MetaAligner/MetaAligner-UltraFeedback-7B": "metaaligner-ultrafeedback",
    "MetaAligner/MetaAligner-UltraFeedback-13B": "metaaligner-ultrafeedback",
    "MetaAligner/MetaAligner-IMHI-7B": "metaaligner-imhi",
    "MetaAligner/MetaAligner-IMHI-13B": "metaaligner-imhi",
}
"""Hub id -> template name, for checkpoints whose template is known."""


def get_template(value: str | Template) -> Template:
    """Return a template from a registered name, a string with `{question}` and `{answer}`, or a `Template`.

    Raises:
        UnknownTemplateError: A name that is not registered.
        ConfigurationError: A template string without one of the two fields.
    """
    if isinstance(value, Template):
        return value
    if not isinstance(value, str):
        raise ConfigurationError(f"template must be a name, a string or a Template, got {type(value).__name__}.")
    if value in TEMPLATES:
        return TEMPLATES[value]
    if "{" in value:
        return Template("custom", value)
    raise UnknownTemplateError(
        f"There is no template {value!r}.{did_you_mean(value, TEMPLATES)} Known templates: {', '.join(sorted(TEMPLATES))}."
    )


def template_for_model(model: str) -> Template:
    """Return the template of a known checkpoint.

    Raises:
        UnknownTemplateError: The checkpoint is not known; the message lists the choices.
    """
    if model in MODEL_TEMPLATES:
        return TEMPLATES[MODEL_TEMPLATES[model]]
    raise UnknownTemplateError(
        f"No prompt template is known for {model!r}, and a wrong one would silently ruin its corrections. "
        f"Pass template= with one of {', '.join(sorted(TEMPLATES))}, or a string with {{question}} and {{answer}}."
    )
