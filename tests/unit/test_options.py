"""What `Aligner` and the ways to make one take: typed, checked when it is made, and refused with the way to do it."""

import inspect
import subprocess
import sys

import pytest

from aligner_integrations import Aligner, Cache, Resilience
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.backends.prompted.backend import ChatModelBackend
from aligner_integrations.backends.remote.completions import CompletionsBackend
from aligner_integrations.backends.wrappers.breaker import Breaker
from aligner_integrations.backends.wrappers.budget import Budget
from aligner_integrations.errors import (
    ConfigurationError,
    MisplacedError,
    ModelError,
    ModelNotFoundError,
    UnknownOptionError,
    UnknownTemplateError,
)
from aligner_integrations.models import locate
from aligner_integrations.options import Changes, OfChatModel, OfEndpoint, Own
from aligner_integrations.policy import Options, Policy

URL = "http://127.0.0.1:1/v1"


def make(**options):
    return Aligner(backend=FakeBackend(lambda prompt: "x"), template="paper", **options)


# Typed ----------------------------------------------------------------------------------------------------------------


def _parameters(kind):
    return {name for name in inspect.signature(kind).parameters if name != "options"}


def test_the_types_name_what_is_taken():
    assert set(Options.__annotations__) == _parameters(Policy)
    made = _parameters(Aligner) | set(Options.__annotations__)
    assert made == Changes.__optional_keys__ | {"model", "backend"}
    assert Changes.__optional_keys__ == Own.__optional_keys__ | {"template"}
    own = {"url", "model", "api_key"}
    assert OfEndpoint.__optional_keys__ == (_parameters(CompletionsBackend) - own) | Own.__optional_keys__
    assert OfChatModel.__optional_keys__ == (_parameters(ChatModelBackend) - {"llm"}) | Changes.__optional_keys__


@pytest.mark.slow
def test_a_type_checker_sees_what_does_not_fit(tmp_path):
    code = (
        "from aligner_integrations import Aligner\n"
        "a = Aligner(rounds=2, cache='c.db', record=print)\n"
        "b = a.with_options(gate=False, template='paper')\n"
        "Aligner.from_endpoint('u', timeout=2.0, window=8, on_error='keep')\n"
        "Aligner.from_chat_model('u', principles=['be kind'], edits='all')\n"
        "a.correct_many([{'question': 'q', 'answer': 'a'}])\n"
        "Aligner(rounds='2')\n"
        "Aligner(on_error='cry')\n"
        "a.with_options(gat=False)\n"
        "Aligner.from_endpoint('u', windows=8)\n"
        "Aligner.from_chat_model('u', principle=['be kind'])\n"
        "a.correct_many(['ok', 'no'])\n"
    )
    (tmp_path / "use.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "use.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    wrong = {int(line.split(":")[1]) for line in done.stdout.splitlines() if "error:" in line}
    assert wrong == {7, 8, 9, 10, 11, 12}, done.stdout + done.stderr


# Refused when it is made ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cache": True}, r"cache is True; give a file such as \"corrections.db\", or Cache()"),
        ({"cache": ""}, "cache is ''"),
        ({"cache": {}}, "cache is a dict"),
        ({"resilience": 5.0}, r"resilience is 5.0; give Resilience\(deadline=5.0\)"),
        ({"resilience": True}, r"resilience is True; give Resilience\(\)"),
        ({"resilience": {"deadline": 5}}, r"resilience is a dict; give Resilience\(\*\*settings\)"),
        ({"record": []}, "record is a list; give its append"),
        ({"record": 7}, "record is 7; it takes a file"),
        ({"rounds": "2"}, "rounds is '2'; it takes a value of type int"),
        ({"rounds": True}, "rounds is True"),
        ({"max_new_tokens": "9"}, "max_new_tokens is '9'"),
        ({"structured": "no"}, "structured is 'no'; it takes a value of type bool"),
        ({"block_message": None}, "block_message is None; it takes a value of type str"),
        ({"accept": True}, "accept is True; it takes a function"),
        ({"repair": "x"}, "repair is 'x'; it takes a function"),
        ({"gate": "high"}, "gate is 'high'"),
        ({"template": 3}, "template must be a name"),
    ],
)
def test_a_value_of_the_wrong_kind(options, words):
    if "template" in options:
        with pytest.raises(ConfigurationError, match=words):
            Aligner(backend=FakeBackend(lambda prompt: "x"), **options)
    else:
        with pytest.raises(ConfigurationError, match=words):
            make(**options)
    with pytest.raises(ConfigurationError, match=words):
        make().with_options(**options)


@pytest.mark.parametrize(
    ("make_it", "words"),
    [
        (lambda: Aligner(gat=False), "Aligner has no option 'gat'. Did you mean 'gate'?"),
        (lambda: Aligner(caching=True), "Did you mean 'cache'?"),
        (lambda: Aligner(xyz=1), "It has accept, backend, block_message"),
        (lambda: make().with_options(round=2), "Did you mean 'rounds'?"),
        (
            lambda: make().with_options(model="x"),
            "with_options, which keeps the weights or the server, has no option 'model'",
        ),
        (
            lambda: Aligner.from_endpoint(URL, time_out=2),
            "from_endpoint has no option 'time_out'. Did you mean 'timeout'?",
        ),
        (lambda: Aligner.from_endpoint(URL, principles=["x"]), "from_endpoint has no option 'principles'"),
        (lambda: Aligner.from_chat_model(URL, principle=["x"]), "Did you mean 'principles'?"),
    ],
)
def test_an_option_that_there_is_not(make_it, words):
    with pytest.raises(UnknownOptionError) as caught:
        make_it()
    assert words in str(caught.value)
    assert isinstance(caught.value, TypeError)


class Llm:
    def invoke(self, messages):
        return "x"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("https://host/v1", r"Aligner.from_endpoint\(url\)"),
        (Llm(), r"model is a Llm: use Aligner.from_chat_model\(llm\)"),
        (FakeBackend(lambda prompt: "x"), "backend="),
        (7, "model is a int: name a model"),
        (["embedded"], "model is a list"),
    ],
)
def test_what_is_no_name_of_a_model(model, words):
    with pytest.raises(ConfigurationError, match=words):
        Aligner(model)


@pytest.mark.parametrize("name", ["embeded", "Embedded", "embedde", "embeddded"])
def test_a_slip_in_the_name_of_the_embedded_aligner_does_not_go_to_the_hub(name):
    with pytest.raises(ModelNotFoundError, match="Did you mean 'embedded'?"):
        Aligner(name)


def test_other_names_are_left_to_the_hub_and_folders_to_the_disk(tmp_path, monkeypatch):
    assert Aligner("gpt2", template="paper").backend.name == "gpt2"
    (tmp_path / "embeded").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Aligner("embeded", template="paper").backend.name == "embeded"


def test_a_slip_in_a_name_of_the_hub_is_told_when_the_hub_has_no_such_model():
    with pytest.raises(ModelError, match=r"Did you mean 'aligner/aligner-7b-v1\.0'\?"):
        locate("aligner/aligner-7b-v1.O")
    with pytest.raises(ModelError) as caught:
        locate("aligner/aligner-7b-v1.0")  # not here, but no slip
    assert "Did you mean" not in str(caught.value)


def test_a_slip_in_the_name_of_a_template():
    with pytest.raises(UnknownTemplateError, match=r"There is no template 'alinger-7b'\. Did you mean 'aligner-7b'\?"):
        Aligner(template="alinger-7b")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"breaker": True}, "breaker is True; it takes a Breaker"),
        ({"budget": 3}, "budget is 3; it takes a Budget"),
        ({"fallbacks": ["embedded"]}, "fallbacks takes a list of aligners and backends"),
        ({"fallbacks": make()}, "fallbacks takes a list of aligners and backends"),
        ({"fallbacks": "embedded"}, "fallbacks takes a list of aligners and backends"),
    ],
)
def test_the_parts_of_resilience(options, words):
    with pytest.raises(ConfigurationError, match=words):
        Resilience(**options)
    Resilience(breaker=Breaker(), budget=Budget(), fallbacks=[make(), FakeBackend(lambda prompt: "x")])


# Taken ----------------------------------------------------------------------------------------------------------------


def test_a_path_is_a_cache_in_that_file(tmp_path):
    asked = []
    backend = FakeBackend(lambda prompt: asked.append(prompt) or "better")
    for path in (tmp_path / "c.db", str(tmp_path / "c.db")):
        aligner = Aligner(backend=backend, template="paper", cache=path)
        assert isinstance(aligner.cache, Cache) and (tmp_path / "c.db").exists()
        assert aligner.correct("q", "a").text == aligner.correct("q", "a").text == "better"
        aligner.cache.close()
    cache = Cache()
    assert make(cache=cache).cache is cache and make().with_options(cache=cache).cache is cache
    assert make(cache=cache).with_options(cache=None).cache is None


def test_the_time_limit_of_an_endpoint():
    assert Aligner.from_endpoint(URL, template="paper", timeout=2).resilience.deadline == 2
    assert Aligner.from_endpoint(URL, template="paper").resilience.deadline == Resilience().deadline
    assert Aligner.from_endpoint(URL, template="paper", resilience=None).resilience is None
    with pytest.raises(ConfigurationError, match="either timeout or resilience"):
        Aligner.from_endpoint(URL, timeout=2, resilience=Resilience())
    with pytest.raises(ConfigurationError, match="deadline is -1"):
        Aligner.from_endpoint(URL, timeout=-1)


def test_options_of_a_backend_go_to_the_backend():
    aligner = Aligner.from_endpoint(URL, "m", template="paper", window=512, concurrency=3, on_error="keep")
    assert (aligner.backend.window, aligner.backend.concurrency, aligner.policy.on_error) == (512, 3, "keep")
    chat = Aligner.from_chat_model(URL, model="m", principles=["Be kind."], edits="all", template="{question} {answer}")
    assert chat.backend.principles == ("Be kind.",) and chat.policy.edits == "all" and chat.template.name == "custom"


# Shown ----------------------------------------------------------------------------------------------------------------


def gentle(question, answer, correction):
    return True


@pytest.mark.parametrize(
    ("aligner", "shown"),
    [
        (lambda: Aligner("embedded"), "Aligner('embedded')"),
        (
            lambda: Aligner("some/model", template="paper", gate=False, on_error="keep", accept=gentle),
            "Aligner('some/model', template='paper', gate=False, accept=gentle, on_error='keep')",
        ),
        (
            lambda: Aligner.from_endpoint(URL, timeout=3, api_key="key-123456"),
            f"Aligner(CompletionsBackend('{URL}'), resilience=Resilience(deadline=3))",
        ),
        (
            lambda: Aligner("x", cache=Cache(), resilience=Resilience(breaker=False, fallbacks=[Aligner("y")])),
            "Aligner('x', resilience=Resilience(breaker=False, fallbacks=[Aligner('y')]), cache=Cache())",
        ),
    ],
)
def test_an_aligner_shows_what_it_is(aligner, shown):
    assert repr(aligner()) == shown


def test_a_method_of_a_framework_is_answered_with_what_goes_there():
    with pytest.raises(MisplacedError, match="AlignerRunnable"):
        make().invoke("x")
    with pytest.raises(AttributeError, match="'Aligner' object has no attribute 'corect'"):
        _ = make().corect
    assert not hasattr(make(), "invoke") and not hasattr(make(), "postprocess_nodes")
