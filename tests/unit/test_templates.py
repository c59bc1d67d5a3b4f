"""Templates to the letter (typed from the sources, spaces and all), and rendering that never formats data."""

import pytest

from aligner_integrations import Template
from aligner_integrations.errors import ConfigurationError, UnknownTemplateError
from aligner_integrations.models import KNOWN_MODELS
from aligner_integrations.templates import MODEL_TEMPLATES, TEMPLATES, get_template, template_for_model

LITERAL = {
    # T1
    "aligner-7b": "BEGINNING OF CONVERSATION: USER: Edit the following Question-Answer pair to make it more helpful and harmless: How? | So. ASSISTANT:",
    # T2: two spaces before ASSISTANT:
    "aligner-2b-alpacaeval": "BEGINNING OF CONVERSATION: USER: ##Question: How? ##Answer: So. ##Revision:  ASSISTANT:",
    # T3: two spaces again
    "aligner-repo": "BEGINNING OF CONVERSATION: USER: ##Question: How?\n##Answer: So.\n##Correction:  ASSISTANT:",
    # T4
    "paper": "BEGINNING OF CONVERSATION:\nUSER: Editing the following Question-Answer pair to make it more helpful and harmless:\nQuestion: How? | Answer: So.\nASSISTANT:",
    # T5
    "empathy": "BEGINNING OF CONVERSATION: USER: Edit the following Question-Answer pair to make it more empathic and helpful: How? | So. ASSISTANT:",
    # T6
    "stream": "BEGINNING OF CONVERSATION: USER: ##Question: How? | ##Answer_Prefix: First. | ##Answer_Last_Sentence: So. | ##Your_Revision:  ASSISTANT:",
    # T7: a full stop and a colon
    "thought": "BEGINNING OF CONVERSATION: USER: Edit the following Instruction-Thought pair to make it more helpful and harmless. : How? | So. ASSISTANT:",
    # T8: no wrapper, and a space at the end
    "metaaligner-hh": "You are an assistant to human. You will be provided with a context and an answer. Consider the context, then edit the answer to improve it considering these aspects: Harmless; Helpful | Context: How? | Answer: So. | Edit: ",
    "metaaligner-ultrafeedback": "You are an assistant to human. You will be provided with a query and an answer. Consider the query, then edit the answer to improve it considering these aspects: Harmless; Helpful | Query: How? | Answer: So. | Edit: ",
    "metaaligner-imhi": 'Edit the following Question-Answer pair to make it better considering these aspects "Harmless; Helpful" | Question: How? | Answer: So. | Edit: ',
    # ours
    "embedded": "##Question: How?\n##Answer: So.\n##Correction:",
}
FIELDS = {"aspects": "Harmless; Helpful", "prefix": "First."}


def test_every_template_has_its_literal_here():
    assert LITERAL.keys() == TEMPLATES.keys()


@pytest.mark.parametrize("name", LITERAL)
def test_rendered_to_the_letter(name):
    template = get_template(name)
    fields = {field: FIELDS[field] for field in template.extra_fields}
    assert template.render("How?", "So.", **fields) == LITERAL[name]
    assert template.name == name
    assert template.source


@pytest.mark.parametrize("name", LITERAL)
def test_white_space_before_the_completion(name):
    assert TEMPLATES[name].completion_prefix == (" " if name == "embedded" else "")


@pytest.mark.parametrize(
    ("name", "fields"),
    [("stream", ("prefix",)), ("metaaligner-hh", ("aspects",)), ("metaaligner-imhi", ("aspects",)), ("aligner-7b", ())],
)
def test_extra_fields(name, fields):
    assert TEMPLATES[name].extra_fields == fields


@pytest.mark.parametrize(
    ("name", "fields", "named"),
    [
        ("metaaligner-hh", {}, "aspects"),
        ("metaaligner-hh", {"aspects": "Helpful", "prefix": ""}, "prefix"),
        ("aligner-7b", {"aspects": "Helpful"}, "aspects"),
        ("metaaligner-hh", {"aspects": ["Helpful"]}, "aspects"),
    ],
)
def test_a_missing_unknown_or_odd_field_is_an_error_that_names_it(name, fields, named):
    with pytest.raises(ConfigurationError, match=named):
        TEMPLATES[name].render("How?", "So.", **fields)


@pytest.mark.parametrize(
    "data", ["{answer}", "{question}", "{aspects}", "{0}", "{", "}}", "{x!r:>{y}}", r"\g<0> \1", "%s"]
)
def test_data_is_never_formatted(data):
    assert Template("t", "1 {question} 2 {answer} 3").render(data, data) == f"1 {data} 2 {data} 3"


def test_a_template_may_repeat_a_field_and_hold_other_braces():
    template = Template("t", '{question}{answer}{question} {"a": {}} {Upper}')
    assert template.render("q", "a") == 'qaq {"a": {}} {Upper}'


def test_a_string_is_a_template_of_ones_own():
    template = get_template("Q {question} A {answer} in {style}:")
    assert template.render("q", "a", style="prose") == "Q q A a in prose:"
    assert get_template(template) is template


@pytest.mark.parametrize(
    ("text", "lacking"), [("{question}", "{answer}"), ("{answer}", "{question}"), ("{a}", "{answer} and {question}")]
)
def test_a_string_without_question_or_answer_is_an_error(text, lacking):
    with pytest.raises(ConfigurationError, match=f"lacks {lacking};"):
        get_template(text)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UnknownTemplateError, match="aligner-8b") as caught:
        get_template("aligner-8b")
    assert all(name in str(caught.value) for name in TEMPLATES)


def test_not_a_template_at_all():
    with pytest.raises(ConfigurationError, match="NoneType"):
        get_template(None)


def test_completion_prefix_is_white_space_only():
    with pytest.raises(ConfigurationError, match="white space only"):
        Template("t", "{question}{answer}", completion_prefix=" Edit:")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("aligner/aligner-7b-v1.0", "aligner-7b"),
        ("WhitzardAgent/Thought-Aligner-7B", "thought"),
        ("MetaAligner/MetaAligner-HH-RLHF-1.1B", "metaaligner-hh"),
        ("MetaAligner/MetaAligner-UltraFeedback-13B", "metaaligner-ultrafeedback"),
        ("MetaAligner/MetaAligner-IMHI-7B", "metaaligner-imhi"),
    ],
)
def test_template_of_a_checkpoint(model, name):
    assert template_for_model(model) is TEMPLATES[name]


def test_every_registered_checkpoint_has_a_template_and_is_known():
    assert set(MODEL_TEMPLATES.values()) <= TEMPLATES.keys()
    assert KNOWN_MODELS.keys() == MODEL_TEMPLATES.keys() | {"embedded"}
    assert all(model.template in TEMPLATES for model in KNOWN_MODELS.values())


def test_an_unknown_checkpoint_is_never_guessed():
    with pytest.raises(UnknownTemplateError, match="aligner/aligner-7b-v2.0"):
        template_for_model("aligner/aligner-7b-v2.0")


@pytest.mark.parametrize("name", LITERAL)
def test_dict_round_trip(name):
    assert Template.from_dict(TEMPLATES[name].to_dict()) == TEMPLATES[name]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"name": "t"},
        {"name": "t", "text": 1},
        {"name": "t", "text": "{question}{answer}", "more": ""},
        {"name": "t", "text": "x"},
    ],
)
def test_bad_dicts(data):
    with pytest.raises(ConfigurationError):
        Template.from_dict(data)
