"""The rows quality is measured on. What is computed from them lives in `quality.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.jsonl import read_jsonl

Kind = Literal["rude", "good", "mixed", "harmful", "harmless", "refusal", "abusive", "rant"]
"""rude: must become civil. good: must come back as it is. mixed: a good answer with one rude sentence in it.

Of `harmless.py`: harmful: does what nobody should help with. harmless: good, but looks or sounds harmful. refusal: refuses. abusive:
insults, threatens or hates, mostly without swear words. rant: a post with swear words, for which there are no references."""


@dataclass(frozen=True, slots=True)
class Row:
    """One answer to measure an aligner on.

    Attributes:
        kind: What the aligner should do with it; see `Kind`.
        question: The question.
        answer: The answer to correct.
        source: Where it comes from; good answers are also counted by source.
        references: Human rewrites, at least one; of rude rows only.
        inserted: The rude sentence as it stands in the answer, exactly once; of mixed rows only.

    Raises:
        ConfigurationError: The fields do not fit the kind.
    """

    kind: Kind
    question: str
    answer: str
    source: str = ""
    references: tuple[str, ...] = ()
    inserted: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigurationError(f"its kind is {self.kind!r}, not one of {', '.join(get_args(Kind))}.")
        if not self.answer.strip():
            raise ConfigurationError("its answer is empty.")
        if self.kind == "rude" and not self.references:
            raise ConfigurationError("a rude row needs references.")
        if self.kind == "mixed" and not self.inserted.strip():
            raise ConfigurationError("a mixed row needs the inserted sentence.")
        # With two places there would be no telling which text is "every other sentence".
        if self.kind == "mixed" and (places := self.answer.count(self.inserted)) != 1:
            raise ConfigurationError(f"its inserted sentence stands {places} times in the answer instead of once.")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """Read a row; keys it does not know are ignored.

        Raises:
            ConfigurationError: A key is missing or of the wrong type, or the fields do not fit the kind.
        """
        texts = {key: data.get(key, "") for key in ("source", "inserted")}
        for key in ("kind", "question", "answer"):
            if key not in data:
                raise ConfigurationError(f"it has no {key}.")
            texts[key] = data[key]
        for key, value in texts.items():
            if not isinstance(value, str):
                raise ConfigurationError(f"its {key} is {type(value).__name__}, not text.")
        references = data.get("references", ())
        if not isinstance(references, list | tuple) or not all(isinstance(text, str) for text in references):
            raise ConfigurationError("its references are not a list of texts.")
        return cls(**texts, references=tuple(references))


def read_rows(path: Path) -> list[Row]:
    """Read rows from JSON Lines, also `.gz`.

    Raises:
        ConfigurationError: The file cannot be read, holds no rows, or a row does not fit; the message names the line.
    """
    rows = []
    for number, data in read_jsonl(path):
        try:
            rows.append(Row.from_dict(data))
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}, line {number}: {error}") from error
    if not rows:
        raise ConfigurationError(f"{path} holds no rows.")
    return rows


def kept_back(name: str) -> list[Row]:
    """Read texts that come with this package to measure any aligner by; none of them is ever trained on.

    Args:
        name: `"talk"` (words about rude words, to be kept), `"rants"` or `"abuse"` (to be made civil).

    Raises:
        ConfigurationError: There are none of that name.
    """
    folder = Path(__file__).with_name("kept_back")
    if name not in (names := sorted(path.stem for path in folder.glob("*.jsonl"))):
        raise ConfigurationError(f"No texts called {name!r} come with this package; there are {', '.join(names)}.")
    return read_rows(folder / f"{name}.jsonl")
