"""What a model's folder may ask for before anything of it is loaded: nothing that would hang, or fill the memory.

Cheap looks at configurations and at the heads of weight files. That there is no pickle and no code in it: `models.py`, `hub.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from re import _constants, _parser  # type: ignore[attr-defined]  # the standard library's own reader of patterns
from typing import Any

from aligner_integrations.errors import ModelLoadError, UnsafeWeightsError

_LONGEST_PATTERN = 2_000
_LARGEST_RANK = 65_536
_LONGEST_HEAD = 100 * 2**20  # bytes, as the safetensors library bounds it
_UNBOUNDED = (_constants.MAX_REPEAT, _constants.MIN_REPEAT)


def check_adapter(name: str, config: Mapping[str, Any]) -> None:
    """Refuse an adapter whose configuration would keep PEFT busy for ever.

    Raises:
        UnsafeWeightsError: A pattern that may take exponential time, or a rank that no adapter has.
    """
    for pattern in _patterns(config):
        if len(pattern) > _LONGEST_PATTERN or _may_explode(pattern):
            raise UnsafeWeightsError(
                f"{name} names its layers by the pattern {pattern[:60]!r}, which may take for ever to match. Name the layers "
                "one by one in adapter_config.json (target_modules)."
            )
    ranks = [config.get("r"), *_values(config.get("rank_pattern"))]
    if wrong := [rank for rank in ranks if isinstance(rank, int) and not 0 < rank <= _LARGEST_RANK]:
        raise UnsafeWeightsError(f"{name} has an adapter of rank {wrong[0]}; it must be from 1 to {_LARGEST_RANK}.")


def check_size(name: str, folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a model that says it has more layers than its weights have tensors: all of them would be built first.

    Raises:
        ModelLoadError: It does, or a weight file has no head.
    """
    text = config.get("text_config")
    layers = [
        part.get(key)
        for part in (config, text if isinstance(text, Mapping) else {})
        for key in ("num_hidden_layers", "n_layer", "num_layers")
    ]
    most = max((number for number in layers if isinstance(number, int)), default=0)
    files = sorted(folder.glob("*.safetensors"))
    if most > 1 and files and most > (tensors := sum(_tensors(path) for path in files)):
        raise ModelLoadError(
            f"{name} says in config.json that it has {most:,} layers, but its weights hold {tensors:,} tensors."
        )


def _patterns(config: Mapping[str, Any]) -> Iterator[str]:
    """What PEFT takes for regular expressions."""
    for key in ("target_modules", "exclude_modules", "layers_pattern"):
        if isinstance(value := config.get(key), str):
            yield value
    for key in ("rank_pattern", "alpha_pattern"):
        if isinstance(value := config.get(key), Mapping):
            yield from value


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else []


def _may_explode(pattern: str) -> bool:
    """Whether one repetition without a bound stands inside another one, the usual way to exponential time."""
    try:
        parsed = _parser.parse(pattern)
    except (re.error, OverflowError, RecursionError):
        return True
    return _nested(parsed, inside=False)


def _nested(items: Any, *, inside: bool) -> bool:
    for op, arguments in items:
        repeats = op in _UNBOUNDED and arguments[1] == _constants.MAXREPEAT
        if repeats and inside:
            return True
        for part in _subpatterns(arguments):
            if _nested(part, inside=inside or repeats):
                return True
    return False


def _subpatterns(arguments: Any) -> Iterator[Any]:
    if isinstance(arguments, _parser.SubPattern):
        yield arguments
    elif isinstance(arguments, list | tuple):
        for part in arguments:
            yield from _subpatterns(part)


def _tensors(path: Path) -> int:
    """How many tensors a safetensors file names in its head (a length of eight bytes, then JSON)."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(_LONGEST_HEAD, path.stat().st_size):
                raise ValueError("its head is longer than the file")
            return len(json.loads(file.read(length)))
    except (OSError, ValueError, RecursionError, TypeError) as error:
        raise ModelLoadError(
            f"The weights in {path} are damaged, or no safetensors file: {error}. If a download was cut, delete the folder and "
            "fetch again."
        ) from error
