"""What the embedded recipe asks: prompts over rude sentences that make a small upstream answer rudely, and what measures its fluency.

Three templates over ParaDetox rows, split by row: a sentence to go on in the same style, one to say in other words, one to complete. "Repeat
this" would teach disobedience, and "reply in the same tone" mostly yields apologies. Nothing here is shipped; the texts are read from
the data folder of the embedded recipe.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aligner_integrations.errors import ConfigurationError
from aligner_integrations.jsonl import read_jsonl

FILES = ("paradetox.jsonl.gz", "oasst_en_100.jsonl.gz")
QUESTIONS, GOOD, NEUTRAL = "questions.jsonl", "good.jsonl", "neutral.jsonl"

_NEUTRAL = 500
_GOOD_CHARACTERS = (40, 500)


def write_questions(data: Path, folder: Path, *, seed: int = 0) -> None:
    """Write `questions.jsonl`, `good.jsonl` and `neutral.jsonl` for a bootstrap; what is there already is left as it is.

    Args:
        data: Folder with ParaDetox and the answers of Open-Assistant, as for `aligner train --recipe embedded`.
        folder: Where they go.
        seed: Which template a row gets, and in which order.

    Raises:
        ConfigurationError: A file is missing.
    """
    if missing := [name for name in FILES if not (data / name).is_file()]:
        raise ConfigurationError(f"{data} lacks {' and '.join(missing)}, which the questions are made of.")
    if all((folder / name).exists() for name in (QUESTIONS, GOOD, NEUTRAL)):
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    rude = [row for _, row in read_jsonl(data / FILES[0]) if row["neutral"] and len(row["toxic"].split()) >= 6]
    rng.shuffle(rude)
    # Sentences to copy are of rows that are never asked.
    asked, copied = rude[:-_NEUTRAL], rude[-_NEUTRAL:]
    _write(folder / NEUTRAL, ({"text": row["neutral"][0].strip()} for row in copied))
    _write(folder / QUESTIONS, (_question(row, rng) for row in asked))
    least, most = _GOOD_CHARACTERS
    good = [row for _, row in read_jsonl(data / FILES[1]) if not row["history"] and least <= len(row["answer"]) <= most]
    _write(folder / GOOD, ({"question": row["question"], "answer": row["answer"]} for row in good))


def _question(row: Mapping[str, Any], rng: random.Random) -> dict[str, str]:
    rude, civil = row["toxic"].strip(), row["neutral"][0].strip()
    words = rude.split()
    beginning = " ".join(words[: 2 * len(words) // 3])
    template = rng.choice(("more", "own words", "complete"))
    if template == "more":
        # A person's sentence in that style, but civil.
        return {"question": f"Write one more sentence in exactly this style: {rude}", "reference": civil, "group": rude}
    if template == "own words":
        return {"question": f"Say this in your own words: {rude}", "reference": civil, "group": rude}
    return {"question": f"Complete this sentence: {beginning}", "reference": civil, "group": rude}


def _write(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    path.touch(mode=0o600)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
