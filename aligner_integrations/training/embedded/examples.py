"""What the embedded aligner's gate learns from, and the rows that it is chosen and measured on. None of them is trained on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from aligner_integrations.evaluation import three_h
from aligner_integrations.evaluation.rows import Row, read_rows
from aligner_integrations.jsonl import read_jsonl
from aligner_integrations.refusals import is_refusal
from aligner_integrations.training.embedded import data, harm, sources
from aligner_integrations.training.embedded.barbs import barbs
from aligner_integrations.training.embedded.looks import ended, laid_out, typed
from aligner_integrations.training.embedded.pairs import civil_references, project, swears
from aligner_integrations.training.embedded.sources import Pair, Split
from aligner_integrations.training.embedded.talk import talk
from aligner_integrations.training.gate import MIXED, GateExample
from aligner_integrations.triples import Triple

KEPT_BACK = Path(data.__file__).parents[2] / "evaluation" / "kept_back"
"""Texts that only measure; see the README there."""

_PACKAGES = (
    "aiohttp", "attrs", "certifi", "click", "datasets", "filelock", "httpx", "idna", "jinja2", "jsonschema", "lxml", "markdown-it-py",
    "mypy", "networkx", "numpy", "packaging", "peft", "pluggy", "psutil", "pydantic", "pygments", "pytest", "pyyaml", "requests", "rich",
    "safetensors", "sqlalchemy", "tenacity", "tqdm", "typer", "urllib3", "yarl",
)  # fmt: skip
"""Whose descriptions are good answers to measure on, as far as they are installed."""


def gate_examples(
    part: Split,
    written: Sequence[Pair],
    upstream: Sequence[Pair],
    complied: Sequence[Pair],
    seed: int,
    sizes: tuple[int, int, int],
) -> list[GateExample]:
    """Examples for the gate from one split.

    Args:
        part: The split.
        written: Good answers in other languages, code and tables.
        upstream: SmolLM2's answers to ordinary questions of this split.
        complied: Its answers to harmful ones.
        seed: Which rows are drawn.
        sizes: How many rude, civil and mixed answers; of the other kinds at most so many as rude ones.
    """
    rng = random.Random(seed)
    rude_count, civil_count, mixed_count = sizes

    def some(pairs: Sequence[Pair], count: int) -> list[Pair]:
        return rng.sample(list(pairs), min(count, len(pairs)))

    def asked() -> str:
        return rng.choice((*data.QUESTIONS, data.REPORT_QUESTION))

    rude = rng.sample(part.rude, min(rude_count, len(part.rude)))
    examples = []
    for number, one in enumerate(rude):
        look = (lambda text: ended(typed(text))) if number % 3 == 0 else str
        examples.append(GateExample(asked(), look(one.toxic), tuple(map(look, one.neutral)), "rude"))
    examples += [GateExample(asked(), r.neutral[0]) for r in rng.sample(part.rude, min(civil_count, len(part.rude)))]
    good = [g for g in part.oasst if 80 <= len(g.answer) <= data.MAX_GOOD_CHARACTERS][: 2 * rude_count // 5]
    good += (
        some(part.gsm8k, rude_count // 6)
        + some(part.harmless, 2 * rude_count // 5)
        + some(part.refusals, rude_count // 3)
    )
    hosts = [g for g in good if len(g.answer) <= 900]
    pages = [Pair(g.question, laid_out(rng, g.answer)) for g in good if len(g.answer) > 500]
    good += some(part.facts, rude_count // 5) + some(part.chat, rude_count // 4) + list(upstream) + list(written)
    good += [Pair(rng.choice(harm.OPINIONS), pair.answer) for pair in some(part.neutral, rude_count // 4)]
    good += [Pair(g.question, laid_out(rng, g.answer)) for g in some(hosts, rude_count // 6)]
    examples += [GateExample(harm.clip(pair.question, 500), pair.answer) for pair in good]
    for _ in range(mixed_count):
        # Half of them in long ones: where all around it is fine, a rude sentence has to be found, too.
        one, host = rng.choice(part.rude), rng.choice(pages if pages and rng.random() < 0.5 else hosts)
        place = rng.randrange(len(data.sentences(host.answer)) + 1)
        put = [data.insert_sentence(host.answer, place, ended(typed(text))) for text in (one.toxic, *one.neutral)]
        examples.append(GateExample(host.question, put[0], tuple(put[1:]), MIXED))
    barbed = barbs(random.Random(seed + 2), part.oasst, rude_count // 3)
    examples += [GateExample(row.question, row.answer, (row.correction,), MIXED) for row in barbed]
    examples += _rants(rng, part, rude_count // 4)
    for kind, rows in (
        ("hateful", harm.abusive(rng, part, rude_count // 3) + harm.hateful(rng, part, rude_count // 3)),
        ("harmful", rng.sample(found := harm.declined(rng, part, complied, 700), min(4 * rude_count // 5, len(found)))),
    ):
        examples += [GateExample(row.question, row.answer, kind=kind) for row in rows]
    return examples


def _rants(rng: random.Random, part: Split, count: int) -> list[GateExample]:
    """Posts of several sentences, in which the probe on words learns to find each rude one."""
    found = rng.sample(part.rude, min(3 * count, len(part.rude)))
    edits = [(one.toxic, project(one.toxic, texts[0])) for one in found if (texts := civil_references(one))]
    posts = [data.rant(rng, edits) for _ in range(count)] if edits else []
    return [GateExample(post.question, post.answer, (post.correction,), "rude") for post in posts]


def written_examples(part: Split, seed: int) -> list[GateExample]:
    """Talk about rude words and written abuse, for training the gate only."""
    rng = random.Random(seed)
    kept = talk(rng, [rude.toxic for rude in part.rude], 160)
    return [GateExample(t.question, t.answer) for t in kept] + [
        GateExample(t.question, t.answer, kind="hateful") for t in harm.written()
    ]


def tuning_talk(part: Split, seed: int) -> list[GateExample]:
    """Rude texts of the tuning split in frames: their letters are new, their frames are not."""
    framed: list[Triple] = talk(random.Random(seed), [rude.toxic for rude in part.rude], 60)[-60:]
    return [GateExample(t.question, t.answer) for t in framed]


def strength_rows(tune: Split) -> list[Row]:
    """Rows of the tuning split to choose the adapter's strength on: all rude ones, and some good ones."""
    good = [p for p in (*tune.oasst, *tune.gsm8k, *tune.harmless) if 80 <= len(p.answer) <= 800]
    chosen = random.Random(0).sample(good, min(80, len(good)))
    return [Row("rude", data.REPORT_QUESTION, r.toxic, "ParaDetox", r.neutral) for r in tune.rude] + [
        Row("good", p.question, p.answer, "tuning") for p in chosen
    ]


def report_rows(report: Split, folder: Path, seed: int) -> list[Row]:
    """The rows of the card's first table: 500 rude, 200 good and 100 mixed ones, none of them in training or any choice."""
    rng = random.Random(seed)
    rows = [Row("rude", data.REPORT_QUESTION, r.toxic, "ParaDetox", r.neutral) for r in report.rude[:500]]
    upstream = _measured(folder, 0)
    upstream = [u for u in upstream if 80 <= len(u.answer) <= 1500]
    rng.shuffle(upstream)
    oasst = [g for g in report.oasst if 80 <= len(g.answer) <= 1500]
    gsm8k = [g for g in report.gsm8k if 80 <= len(g.answer) <= 1500]
    for source, good, count in (("OASST", oasst, 60), ("GSM8K", gsm8k, 40), ("GPT-4 Turbo", upstream, 100)):
        rows += [Row("good", g.question, g.answer, source) for g in good[:count]]
    # Rude sentences of the report split that the 500 rows above do not use, in hosts of both kinds.
    hosts = [g for g in (*oasst, *upstream[100:]) if len(g.answer) >= 300][:200]
    rng.shuffle(hosts)
    spare = [r for r in report.rude[500:] if swears(r.toxic)] + report.rude[:500]
    for host, rude in zip(hosts[:100], spare, strict=False):
        place = rng.randrange(len(data.sentences(host.answer)) + 1)
        answer = data.insert_sentence(host.answer, place, rude.toxic)
        rows.append(Row("mixed", host.question, answer, "mixed", inserted=rude.toxic))
    return rows


def _measured(folder: Path, number: int) -> list[Pair]:
    name = list(sources.MEASURED)[number]
    return [Pair(row["question"], row["answer"]) for row in sources.rows_of(folder, name)]


def harm_rows(part: Split, complied: Sequence[Pair], seed: int) -> list[Row]:
    """Rows of the card's second table, from one split and from the texts that were written to measure."""
    rng = random.Random(seed)

    def some(kind: str, pairs: Sequence[Pair], source: str, count: int) -> list[Row]:
        found = rng.sample(list(pairs), min(count, len(pairs)))
        return [Row(kind, p.question or rng.choice(harm.OPINIONS), p.answer, source) for p in found]  # type: ignore[arg-type]

    attacked = [p for p in part.harmful if p.kind != "xstest"]
    rows = some("harmful", attacked, "JailbreakBench", 110)
    rows += some("harmful", [p for p in part.harmful if p.kind == "xstest"], "XSTest", 40)
    rows += some("harmful", complied, "SmolLM2 on STAR-1", 40)
    rows += some("harmless", part.harmless, "XSTest", 110)
    rows += some("harmless", part.neutral, "HateCheck, not hateful", 40)
    rows += some("harmless", part.chat, "DiaSafety, safe", 40)
    rows += some("refusal", part.refusals, "refusals", 110)
    rows += some("abusive", [p for p in part.abusive if len(p.answer) > 25], "DiaSafety", 45)
    rows += some("abusive", part.hateful, "HateCheck", 45)
    return rows + [row for name in ("talk", "rants", "abuse") for row in read_rows(KEPT_BACK / f"{name}.jsonl")]


def harmfulqa_questions(folder: Path) -> list[str]:
    """The 700 questions of HarmfulQA that the paper draws."""
    rows = [row["question"] for row in sources.rows_of(folder, "harmfulqa")]
    return random.Random(three_h.SEED).sample(rows, min(len(rows), three_h.SETS["harmfulqa"].sample or len(rows)))


def harmfulqa_rows(answered: Sequence[Pair]) -> list[Row]:
    """SmolLM2's answers to them: what it refused by itself is to stay, the rest is to be declined."""
    source = "SmolLM2 on HarmfulQA"
    return [Row("refusal" if is_refusal(p.answer) else "harmful", p.question, p.answer, source) for p in answered]


def good_rows(report: Split, folder: Path, upstream: Sequence[Pair], seed: int, each: int = 21) -> list[Row]:
    """Good answers of twenty kinds, so many of each as there are."""
    rng = random.Random(seed)
    kinds: dict[str, list[Pair]] = {}
    for number, name in enumerate(("GPT-4 Turbo", "Qwen1.5-72B")):
        found = [p for p in _measured(folder, number) if 80 <= len(p.answer) <= 1500]
        rng.shuffle(found)
        for pair in found:
            kinds.setdefault(f"{name}, {_layout(pair.answer)}", []).append(pair)
    kinds |= {
        "people (OASST)": [p for p in report.oasst if len(p.answer) <= 1500],
        "sums (GSM8K)": report.gsm8k,
        "SmolLM2": list(upstream),
        "facts (TruthfulQA)": report.facts,
        "written: languages, code": [
            Pair(row["question"], row["answer"]) for _, row in read_jsonl(KEPT_BACK.parent / "handwritten_good.jsonl")
        ],
        "civil sentences": [
            Pair(data.REPORT_QUESTION, r.neutral[-1])
            for r in report.rude
            if len(r.neutral) > 1 and not swears(r.neutral[-1])
        ],
        "READMEs": _descriptions(),
        "hard-wrapped or in lists": [
            Pair(p.question, laid_out(rng, p.answer)) for p in report.oasst if len(p.answer) <= 1500
        ],
    }
    for pair in report.harmless:
        kinds.setdefault(f"harmless, {pair.kind}", []).append(pair)
    return [
        Row("good", pair.question, pair.answer, kind)
        for kind, pairs in sorted(kinds.items())
        for pair in rng.sample(pairs, min(each, len(pairs)))
    ]


def _layout(answer: str) -> str:
    if "```" in answer:
        return "code"
    if answer.count("\n1. ") + answer.count("\n- ") + answer.count("\n* ") + answer.startswith("1. "):
        return "lists"
    return "letters" if answer.startswith(("Dear", "Subject")) or "\n\nDear" in answer else "prose"


def _descriptions() -> list[Pair]:
    found = []
    for name in _PACKAGES:
        try:
            about = metadata(name)
        except PackageNotFoundError:
            continue
        text = str(about.json.get("description") or "").strip()[:1350]
        if len(text) > 200:
            found.append(Pair(f"What is {name}?", text))
    return found
