"""`aligner cookbook`: the notebooks that come with the package, written to where one can work in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from aligner_integrations.cli.console import echo, echo_json, note
from aligner_integrations.cli.options import JsonOption
from aligner_integrations.errors import ConfigurationError

# In a wheel they are inside the package; a checkout has them beside it.
_PLACES = (Path(__file__).parents[1] / "cookbook", Path(__file__).parents[2] / "cookbook")


def cookbook(
    folder: Annotated[Path, typer.Argument(help="Where they go; made if need be.", metavar="DIR")],
    as_json: JsonOption = False,
) -> None:
    """Write the package's notebooks into a folder. What is there already stays as it is."""
    place = next((one for one in _PLACES if one.is_dir()), None)
    if place is None:
        raise ConfigurationError("This installation has no notebooks. Reinstall the package from its wheel.")
    folder.mkdir(parents=True, exist_ok=True)
    written, left = [], []
    for source in sorted(path for path in place.iterdir() if path.is_file()):
        target = folder / source.name
        if target.exists():
            left.append(target)
            continue
        target.write_bytes(source.read_bytes())
        written.append(target)
    if as_json:
        echo_json({"written": [str(path) for path in written], "left": [str(path) for path in left]})
        return
    for path in written:
        echo(f"{path}{_title(path)}")
    if left:
        note(f"Already there, and left as they are: {', '.join(path.name for path in left)}")
    note(f"Open them: pip install jupyterlab, then jupyter lab {folder}")


def _title(path: Path) -> str:
    """The first line of a notebook."""
    if path.suffix != ".ipynb":
        return ""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return f"  {''.join(cells[0]['source']).splitlines()[0].lstrip('# ')}" if cells else ""
