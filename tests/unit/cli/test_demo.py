"""`aligner demo` with a fake aligner and a fake upstream; with real weights it runs in the integration tests."""

import contextlib
import json
import sys
import types

import pytest

from aligner_integrations.cli import demo as module

from .conftest import GatedBackend, answer_in, civil

UPSTREAM = ["Leaves lose their green.", "This damn printer is \x1b[31mbroken."]


@pytest.fixture
def upstream(monkeypatch):
    monkeypatch.setattr(module, "ask_upstream", lambda questions: UPSTREAM)


def test_shows_each_answer_and_a_summary(run, fake, upstream):
    fake(civil)
    result = run("demo")
    assert result.exit_code == 0
    assert "your code is [-shit-]{+bad+} and you should be ashamed of it" in result.stdout
    assert "This [-damn -]printer never works" in result.stdout
    assert "This [-damn -]printer is \\x1b[31mbroken." in result.stdout
    assert "\x1b" not in result.output
    assert "kept letter by letter (unchanged)" in result.stdout
    summary = result.stdout.splitlines()[-1]
    corrected = 3 + 1 + 1  # the rude answers hold the fake's words, and so do the mixed and one upstream answer
    assert summary.startswith("7 answers in ")
    assert f"{corrected} corrected" in summary
    assert "The good answer came back letter by letter." in summary


def test_says_so_when_the_good_answer_is_changed(run, fake, upstream):
    fake(lambda prompt: answer_in(prompt).replace("Water", "Milk"))
    result = run("demo")
    assert "The good answer was changed, which is a mistake." in result.stdout
    assert "[-Water-]{+Milk+} boils" in result.stdout


def test_json(run, fake, upstream):
    asked = fake(civil, GatedBackend)
    result = run("demo", "--json", "--model", "some/model")
    assert asked[0]["which"].model == "some/model"
    data = json.loads(result.stdout)
    kinds = [example["kind"] for example in data["examples"]]
    assert kinds == ["rude", "rude", "rude", "good", "mixed", "upstream", "upstream"]
    good = next(example for example in data["examples"] if example["kind"] == "good")
    assert good["text"] == good["answer"]
    assert (good["outcome"], good["reason"]) == ("kept", "gate")
    assert [e["answer"] for e in data["examples"] if e["kind"] == "upstream"] == UPSTREAM
    assert data["summary"]["answers"] == len(data["examples"]) == sum(data["summary"]["outcomes"].values())
    assert (data["summary"]["good"], data["summary"]["good_unchanged"]) == (1, 1)


def test_examples_cover_what_the_demo_promises():
    kinds = [example.kind for example in module.EXAMPLES]
    assert {"rude", "good", "mixed"} <= set(kinds)
    good = next(example for example in module.EXAMPLES if example.kind == "good")
    assert len(good.answer) > 300
    assert len(module.UPSTREAM_QUESTIONS) == 2


class _Ids(list):
    """A row of token ids with the little of a tensor that the demo uses."""

    @property
    def shape(self):
        return (1, len(self))


_TEXTS = {1: "Hello there.", 2: " And then"}


class _Tokenizer:
    eos_token_id = 0

    def apply_chat_template(self, messages, **options):
        assert options == {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
        self.asked = messages
        inputs = {"input_ids": _Ids([9, 9, 9]), "attention_mask": "mask", "token_type_ids": "not taken by a Llama"}
        return type("Inputs", (dict,), {"to": lambda self, device: self})(inputs)

    def decode(self, ids, skip_special_tokens):
        assert skip_special_tokens
        return "".join(_TEXTS[i] for i in ids if i)


class _Model:
    device = "cpu"

    def __init__(self, written):
        self.written = written

    def generate(self, input_ids, **options):
        assert options.pop("attention_mask") == "mask"
        assert options == {"max_new_tokens": 80, "do_sample": False, "eos_token_id": 0, "pad_token_id": 0}
        return _Output([9, 9, 9, *self.written])


class _Output(list):
    def __getitem__(self, index):
        row, places = index
        assert row == 0
        return _Output(list.__getitem__(self, places))

    def tolist(self):
        return list(self)


@pytest.mark.parametrize(
    ("written", "answer"), [([1, 2, 0], "Hello there. And then"), ([1, 2], "Hello there."), ([2], "And then")]
)
def test_upstream_is_asked_by_chat_template_and_ends_with_a_whole_sentence(monkeypatch, written, answer):
    tokenizer = _Tokenizer()
    weights = types.ModuleType("weights")
    weights.load_base = lambda name: (_Model(written), tokenizer) if name == "embedded" else None
    torch = types.ModuleType("torch")
    torch.inference_mode = contextlib.nullcontext
    monkeypatch.setitem(sys.modules, "aligner_integrations.backends.local.loading", weights)
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert module.ask_upstream(("what?",)) == [answer]
    assert tokenizer.asked == [{"role": "user", "content": "what?"}]
