"""The files that AlpacaEval's figures are computed from: annotations, difficulties, gamed rows, and the published leaderboard.

None of them comes with this package. What is computed from them: `alpaca.py`.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligner_integrations.errors import ConfigurationError, require

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Annotation:
    """One instruction with two outputs and how much the second is preferred.

    Attributes:
        instruction: The question.
        first: The baseline's output.
        second: The model's.
        preference: From 0 (the baseline's) to 1 (the model's); None where the annotator gave none.
    """

    instruction: str
    first: str
    second: str
    preference: float | None


def read_annotations(path: Path) -> list[Annotation]:
    """Read an annotation file of AlpacaEval: a JSON list, also `.gz`.

    Raises:
        ConfigurationError: It is none.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        rows = json.loads(content)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} cannot be read as annotations: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise ConfigurationError(f"{path} is no list of annotations.")
    return [_annotation(row, f"{path}, annotation {number}") for number, row in enumerate(rows)]


def _annotation(row: Any, place: str) -> Annotation:
    if not isinstance(row, dict):
        raise ConfigurationError(f"{place}: it is {type(row).__name__}, not an object.")
    texts = [str(row.get(key)) for key in ("instruction", "output_1", "output_2")]
    if not all(isinstance(row.get(key), str) for key in ("instruction", "output_1", "output_2")):
        raise ConfigurationError(f"{place}: its instruction, output_1 or output_2 is missing, or no text.")
    preference = row.get("preference")
    if preference is None or (isinstance(preference, float) and math.isnan(preference)):
        return Annotation(texts[0], texts[1], texts[2], None)
    if isinstance(preference, bool) or not isinstance(preference, int | float) or not 0 <= preference <= 2:
        raise ConfigurationError(f"{place}: its preference is {preference!r}; it is from 1 to 2, 0 for a tie, or null.")
    # As the annotators write it: 1 for the first, 2 for the second, 0 for neither.
    share = 0.5 if preference == 0 else min(1.0, max(0.0, float(preference) - 1))
    return Annotation(texts[0], texts[1], texts[2], share)


def read_difficulty(path: Path) -> list[float]:
    """Read the instructions' difficulties, in their order.

    Raises:
        ConfigurationError: The file is none.
    """
    rows = _csv(path, "glm_preference")
    return [_number(row["glm_preference"], f"{path}, line {number}") for number, row in enumerate(rows, 2)]


def read_gamed(path: Path) -> np.ndarray[Any, Any]:
    """Read gamed rows; shape (rows, 4), see `length_controlled`.

    Raises:
        ConfigurationError: The file is none.
    """
    with require("evaluate", "Length-controlled win rates need {missing}", "numpy"):
        import numpy as np
    rows = _csv(path, "std_delta_len", "instruction_difficulty", "not_gamed_baseline", "preference")
    found = []
    for number, row in enumerate(rows, 2):
        place = f"{path}, line {number}"
        kept = {"true": 1.0, "false": 0.0}.get(row["not_gamed_baseline"].strip().lower())
        if kept is None:
            raise ConfigurationError(
                f"{place}: not_gamed_baseline is {row['not_gamed_baseline']!r}, not True or False."
            )
        length, hard, preference = (
            _number(row[name], place) for name in ("std_delta_len", "instruction_difficulty", "preference")
        )
        found.append([length, hard, kept, preference])
    return np.array(found)


def _csv(path: Path, *columns: str) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigurationError(f"{path} cannot be read as CSV: {error}") from error
    if not rows:
        raise ConfigurationError(f"{path} holds no rows.")
    if missing := [name for name in columns if not isinstance(rows[0].get(name), str)]:
        raise ConfigurationError(f"{path} has no column {missing[0]!r}; its columns are {sorted(map(str, rows[0]))}.")
    return rows


def _number(text: str | None, place: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigurationError(f"{place}: {text!r} is no number.")
    return value


# The published leaderboard --------------------------------------------------------------------------------------------


def aligner_rows(path: Path) -> list[list[str]]:
    """Return the rows of Aligner-2B in AlpacaEval's leaderboard, and of the models in front of it, as lines of cells.

    Raises:
        ConfigurationError: The file is no leaderboard.
    """
    columns = ("win_rate", "length_controlled_winrate", "avg_length")
    rows = {row.get("", ""): row for row in _csv(path, *columns)}
    lines = [["", "length-controlled", "win rate", "length"]]
    for name in rows:
        if "aligner" not in name.lower():
            continue
        behind = max(
            (one for one in rows if one and one != name and one.lower() in name.lower()), key=len, default=None
        )
        for one in [behind, name] if behind else [name]:
            figures = rows[one]
            cells = [
                _number(figures[key], f"{path}, {one}")
                for key in ("length_controlled_winrate", "win_rate", "avg_length")
            ]
            lines.append([one, f"{cells[0]:.2f}", f"{cells[1]:.2f}", f"{cells[2]:.0f}"])
    if len(lines) == 1:
        raise ConfigurationError(f"{path} has no row of an aligner.")
    return lines
