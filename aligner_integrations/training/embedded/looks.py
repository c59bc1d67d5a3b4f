"""Looks of real text: capitals and spaces as people type them, masked swear words, and the layouts of answers around them.

ParaDetox is tokenised and in lower case; what an aligner meets is not.
"""

from __future__ import annotations

import random
import re
import textwrap

_FIXES = (
    (re.compile(r"\s+(['’])\s?(s|t|m|re|ve|ll|d)\b", re.I), r"\1\2"),
    (re.compile(r"\b(\w+)\s+(n['’]t)\b", re.I), r"\1\2"),
    (re.compile(r"\b(\w+)n\s+(['’])t\b", re.I), r"\1n\2t"),
    (re.compile(r"\s+([.,!?;:%)\]])"), r"\1"),
    (re.compile(r"([(\[$#])\s+"), r"\1"),
    (re.compile(r"``\s*|\s*''"), '"'),
)
_MASKS = {
    "fuck": ("f*ck", "f**k", "fck", "fuk", "f u c k", "phuck", "fvck"),
    "fucking": ("f*cking", "fcking", "f**king", "fkn", "fuckin", "effing"),
    "shit": ("sh1t", "sh*t", "s**t", "shyt", "$hit", "5hit"),
    "bitch": ("b1tch", "b*tch", "biatch", "bi7ch"),
    "ass": ("a$$", "@ss", "a**", "azz"),
    "asshole": ("a$$hole", "a-hole", "assh0le", "a**hole"),
    "bullshit": ("bs", "b.s.", "bullsh*t", "bullsh1t"),
    "damn": ("d@mn", "d*mn", "dammit"),
    "idiot": ("1diot", "idi0t"),
    "crap": ("cr@p", "cr*p"),
    "dick": ("d1ck", "d*ck"),
    "stupid": ("st00pid", "stoopid", "stup1d"),
    "hell": ("h3ll", "h*ll"),
    "moron": ("m0ron",),
    "dumb": ("d*mb",),
    "sucks": ("sux", "s*cks"),
    "pussy": ("pu$$y", "p*ssy"),
}
_MASKED = re.compile(r"\b(" + "|".join(sorted(_MASKS, key=len, reverse=True)) + r")\b", re.I)


def typed(text: str) -> str:
    """Return tokenised lower-case text as people type it: no spaces before marks, capitals where a sentence begins and for "I"."""
    for pattern, by in _FIXES:
        text = pattern.sub(by, text)
    text = re.sub(r"\bi\b(?!\.\w)", "I", text)
    return re.sub(r"(^|[.!?]\s+)([a-z])", lambda m: m[1] + m[2].upper(), text)


def masked(rng: random.Random, text: str, correction: str) -> str:
    """Return a rude text with its swear words masked, but for those that stay in the correction."""
    stays = set(re.findall(r"\w+", correction.lower()))

    def mask(found: re.Match[str]) -> str:
        word = found[0].lower()
        return found[0] if word in stays else rng.choice(_MASKS[word])

    return _MASKED.sub(mask, text)


def ended(text: str) -> str:
    """Return a sentence that ends with a mark, so that another one can follow."""
    return text if text.rstrip()[-1:] in ".!?" else f"{text.rstrip()}."


def laid_out(rng: random.Random, text: str) -> str:
    """Return a good answer in another layout: hard-wrapped, as a list, under headings, with code, a table or links."""
    sentences = re.split(r"(?<=[.!?])\s+", text.strip())
    kind = rng.randrange(6)
    if kind == 0:
        return textwrap.fill(text, rng.choice((60, 72, 79)))
    if kind == 1:
        mark = rng.choice(("- ", "* ", "1. "))
        return "\n".join(mark + sentence for sentence in sentences)
    name = rng.choice(("Overview", "Notes", "Usage", "Details", "How it works", "Summary"))
    if kind == 2:
        return f"{name}\n{rng.choice('=-~') * len(name)}\n\n" + textwrap.fill(text, 76)
    if kind == 3:
        half = len(sentences) // 2
        return f"## {name}\n\n" + " ".join(sentences[:half]) + "\n\n### More\n\n" + " ".join(sentences[half:])
    if kind == 4:
        code = rng.choice(_CODE)
        return f"{sentences[0]}\n\n{code}\n\n" + " ".join(sentences[1:])
    return f"{text}\n\n{rng.choice(_TABLES)}"


_CODE = (
    '```python\nfor name in sorted(names):\n    print(f"{name}: {len(name)}")\n```',
    "```bash\npip install --upgrade example-tool\nexample-tool --check ./src\n```",
    "    $ make test\n    ... 312 passed, 4 skipped",
    '```json\n{"host": "localhost", "port": 8080, "retries": 3}\n```',
    "```sql\nSELECT city, COUNT(*) FROM orders GROUP BY city;\n```",
)
_TABLES = (
    "| size | price |\n| --- | ---: |\n| small | 3.50 |\n| large | 5.20 |",
    "| step | minutes |\n|---|---|\n| prepare | 10 |\n| bake | 45 |\n| rest | 15 |",
    "See https://docs.example.org/guide/ or write to help@example.org.",
    "[![build](https://img.example.org/b.svg)](https://ci.example.org/7) [Docs](https://docs.example.org)",
)
