"""Each broken server is found, and none is blamed for what it does well."""

import pytest

from aligner_integrations.backends.remote.completions import CompletionsBackend
from aligner_integrations.doctor.asking import Server
from aligner_integrations.doctor.checks import CHECKS, examine
from tests.unit.backends.remote.stub import Stub, said
from tests.unit.doctor import fakes

TIMED = ("speed", "kept prefixes")  # what a busy machine may make of anything


def findings_of(fake, template=None, model=None):
    with Stub(fake) as stub:
        return {one.check: one for one in examine(Server(CompletionsBackend(stub.url, model)), template)}


def blamed(findings):
    """What is not as it should be."""
    return {name for name, one in findings.items() if one.verdict != "good" and name not in TIMED}


def test_a_good_server():
    findings = findings_of(fakes.Fake())
    assert tuple(findings) == CHECKS
    assert blamed(findings) == set()
    assert all(one.verdict != "wrong" for one in findings.values())
    assert (
        findings["model"].says == "The model is aligner/aligner-7b-v1.0, which it lists, with 2,000 tokens of context."
    )
    assert findings["length"].says.startswith("A prompt of 3,200 words is refused as too long")


@pytest.mark.parametrize(
    ("fake", "what", "verdict", "mend"),
    [
        (fakes.OtherTemplate, "template", "wrong", "--template aligner-7b"),
        (fakes.Cuts, "length", "wrong", "num_ctx"),
        (fakes.Samples, "temperature 0", "wrong", "--generation-config vllm"),
        (fakes.ShowsNothing, "log-probabilities", "missing", "vLLM and SGLang show them"),
    ],
)
def test_what_is_broken_is_found_and_nothing_else(fake, what, verdict, mend):
    findings = findings_of(fake())
    assert blamed(findings) == {what}
    assert findings[what].verdict == verdict and mend in findings[what].mend


def test_a_chat_template_that_is_forced_on_prompts():
    """The aligner behind it does not see its own template, so that shows, too."""
    findings = findings_of(fakes.Chats())
    assert blamed(findings) == {"raw prompts", "template"}
    assert "without a chat template" in findings["raw prompts"].mend


def test_a_template_that_was_named_wrongly():
    findings = findings_of(fakes.Fake(), template="paper")
    assert blamed(findings) == {"template"}
    assert "With the template paper an answer does not come back" in findings["template"].says
    assert findings["template"].mend == "--template aligner-7b"


def test_a_template_with_fields_of_its_own():
    findings = findings_of(fakes.Fake(), template="metaaligner-hh")
    assert findings["template"].mend == "--template aligner-7b"


def test_a_model_without_a_known_template():
    fake = fakes.Fake()
    fake.model = "my-own"
    finding = findings_of(fake)["template"]
    assert finding.says.startswith("No template is known for 'my-own', and a wrong one")
    assert finding.mend == "With aligner-7b answers come back: --template aligner-7b, if this is an aligner."


def test_a_chat_model_that_repeats_what_it_is_told_is_taken_for_no_aligner():
    finding = findings_of(fakes.Parrot())["template"]
    assert (finding.verdict, finding.mend) == ("wrong", "Say which with --template.")


def test_a_template_that_there_is_not():
    assert "'my-template'" in findings_of(fakes.Fake(), template="my-template")["template"].says


def test_what_is_no_aligner():
    fake = fakes.Fake()
    fake._written = lambda body, prompt, words: fakes.Fake._written(fake, body, "go on", words)
    findings = findings_of(fake)
    assert findings["template"].verdict == "wrong" and "Is this model an aligner?" in findings["template"].mend


def test_a_server_without_completions():
    findings = findings_of(fakes.ChatsOnly())
    assert list(findings) == ["model", "completions"]
    assert "--chat-model" in findings["completions"].mend


def test_a_server_with_several_models():
    handle = lambda call: said({"data": [{"id": "a"}, {"id": "b"}]})  # noqa: E731
    (finding,) = findings_of(handle).values()
    assert (finding.verdict, finding.mend) == ("wrong", "Say which with --model.") and "(a, b)" in finding.says


def test_a_server_that_is_not_there():
    with Stub(fakes.Fake()) as stub:
        url = stub.url
    (finding,) = examine(Server(CompletionsBackend(url)))
    assert finding.verdict == "wrong" and "cannot be reached" in finding.says


def test_a_server_that_counts_no_tokens_is_not_blamed():
    class Uncounted(fakes.Fake):
        def _written(self, body, prompt, words):
            parts = super()._written(body, prompt, words)
            return (
                parts
                if body.get("stream")
                else [part.replace(b'"prompt_tokens"', b'"prompt_tokenz"') for part in parts]
            )

    findings = findings_of(Uncounted())
    assert blamed(findings) == {"raw prompts", "length", "special tokens"}
    assert {findings[name].verdict for name in blamed(findings)} == {"unknown"}


def test_a_check_that_fails_is_told_as_such():
    class Breaks(fakes.Fake):
        def __call__(self, call):
            if call.body and call.body.get("stream"):
                return said({"error": "out of order"}, 500)
            return super().__call__(call)

    findings = findings_of(Breaks())
    assert blamed(findings) == {"streams"}
    assert findings["streams"].verdict == "unknown" and "out of order" in findings["streams"].says
