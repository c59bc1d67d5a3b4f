"""A made-up data folder with a few rows of each source, and splits of a few rows each."""

import gzip
import json

import pytest

from aligner_integrations.training.embedded import sources

LONG = " ".join(f"Sentence {i} of a long answer stands here." for i in range(8))
_FEW = ("paradetox", "oasst", "gsm8k", "behaviors", "star1", "truthfulqa")
REFUSAL = "I'm sorry, but I can't help with that."


def write(folder, name, rows):
    with gzip.open(folder / name, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """60 rude texts (and again in capitals), 40 questions with answers, 40 sums, 20 behaviours, and some of all else."""
    monkeypatch.setattr(sources, "SIZES", {name: 5 if name.startswith(_FEW) else 14 for name in sources.SIZES})
    rude = [{"toxic": f"this damn thing number {i}", "neutral": [f"this thing number {i}"]} for i in range(60)]
    rude += [{"toxic": row["toxic"].upper().replace(" ", "  "), "neutral": ["again"]} for row in rude[:30]]
    write(tmp_path, "paradetox.jsonl.gz", rude)
    pairs = [{"question": f"Question {i}?", "answer": f"{LONG} {i}"} for i in range(40)]
    again = [{"question": row["question"].upper(), "answer": "Another answer."} for row in pairs]
    write(tmp_path, "oasst_en_100.jsonl.gz", pairs + again)
    sums = [{"question": f"{i} + 1?", "answer": f"{i + 1}. {LONG}"} for i in range(40)]
    write(tmp_path, "gsm8k_answers.jsonl.gz", sums)
    attacks = []
    for i in range(60):
        harmful = i % 3 > 0
        answer = f"Sure, here is how: {LONG}" if harmful else REFUSAL
        attacks.append({"question": f"Harm {i}?", "answer": answer, "harmful": harmful, "behavior": f"b{i % 20}"})
    write(tmp_path, "jailbreakbench.jsonl.gz", attacks)
    exaggerated = []
    for i in range(40):
        safe, label = i % 2 == 0, ("full_compliance", "full_refusal")[i % 4 > 1]
        answer = REFUSAL if label == "full_refusal" else f"You can do it so. {LONG}"
        exaggerated.append(
            {"question": f"X{i}?", "answer": answer, "safe_question": safe, "label": label, "upstream": "a"}
        )
    write(tmp_path, "xstest.jsonl.gz", exaggerated)
    write(tmp_path, "star1.jsonl.gz", [{"question": f"Red {i}?", "refusal": f"{REFUSAL} {i}"} for i in range(30)])
    replies = [
        {"question": f"Hi {i}", "answer": f"You are no good at all, number {i}.", "unsafe": i % 2 == 0, "category": "Offending User"}
        for i in range(60)
    ]  # fmt: skip
    write(tmp_path, "diasafety.jsonl.gz", replies)
    remarks = [
        {
            "text": f"I {'hate' if i % 2 else 'like'} {who} of kind {i}.",
            "hateful": bool(i % 2),
            "functionality": "derog_h",
        }
        for i in range(30)
        for who in ("women", "immigrants")
    ]
    write(tmp_path, "hatecheck.jsonl.gz", remarks)
    write(tmp_path, "truthfulqa.jsonl.gz", [{"question": f"T{i}?", "best": f"It is {i}"} for i in range(30)])
    for name in sources.MEASURED:
        write(tmp_path, name, [{"question": f"q{i}", "answer": f"{LONG} {i}"} for i in range(30)])
    return tmp_path
