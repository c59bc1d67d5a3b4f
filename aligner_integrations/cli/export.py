"""`aligner export`: an aligner as one file for other programs. How it is written: `backends/local/gguf_export.py`."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from aligner_integrations.cli.console import echo, echo_json, note
from aligner_integrations.cli.options import JsonOption, ModelOption, TemplateOption, name_of
from aligner_integrations.errors import require


class Kind(StrEnum):
    """Choices of `--type`."""

    F32 = "f32"
    F16 = "f16"
    Q8_0 = "q8_0"


def export(
    gguf: Annotated[
        Path,
        typer.Option("--gguf", help="The file to write, for llama.cpp and Ollama.", metavar="FILE", dir_okay=False),
    ],
    model: ModelOption = None,
    template: TemplateOption = None,
    kind: Annotated[
        Kind, typer.Option("--type", help="How the weights are packed: 4, 2, or about 1 byte a number.")
    ] = Kind.F16,
    as_json: JsonOption = False,
) -> None:
    """Write an aligner, its adapter merged, as one GGUF file with its tokenizer, for llama.cpp and Ollama."""
    from aligner_integrations.backends.local import libraries
    from aligner_integrations.models import template_of
    from aligner_integrations.templates import TEMPLATES, get_template

    name = name_of(model)
    libraries.look()
    chosen = template_of(name) if template is None else get_template(template)
    with require("local", "Writing a GGUF file needs {missing}", "gguf"):
        from aligner_integrations.backends.local.gguf_export import export_gguf
    from aligner_integrations.backends.local.loading import load_merged

    weights, tokenizer, ends = load_merged(name)
    export_gguf(weights, tokenizer, ends, gguf, template=chosen, name=name, kind=kind.value)
    size = gguf.stat().st_size
    if as_json:
        echo_json({"gguf": str(gguf), "bytes": size, "type": kind.value, "template": chosen.name})
        return
    echo(str(gguf))
    asked = chosen.name if chosen.name in TEMPLATES else shlex.quote(chosen.text)
    note(
        f"{size / 1e6:,.0f} MB. Serve it with llama-server -m {shlex.quote(str(gguf))}, or with Ollama (servers.md), and ask it with"
    )
    note(f"  aligner correct --endpoint http://localhost:8080/v1 --template {asked} QUESTION ANSWER")
    note("The gate stays behind: it reads hidden states, which no server shows.")
