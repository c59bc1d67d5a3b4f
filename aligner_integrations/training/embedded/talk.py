"""Talk about rude words, quotations, idioms and names: the aligner learns to keep them.

A swear word that is spoken about, or that somebody else is quoted with, is not said to anyone. Written for this package; what measures
it is written elsewhere (`evaluation/kept_back`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from aligner_integrations.jsonl import read_jsonl
from aligner_integrations.training.embedded.looks import ended, typed
from aligner_integrations.triples import Triple

WRITTEN = Path(__file__).parent / "written" / "talk.jsonl"

_WORDS = (
    "shit", "fuck", "bitch", "bastard", "asshole", "damn", "crap", "bullshit", "dickhead", "prick", "moron", "idiot",
    "bollocks", "arse", "twat", "piss", "cunt", "slut", "whore", "jerk", "dumb", "stupid", "hell", "goddamn", "motherfucker",
)  # fmt: skip
_ABOUT = (
    (
        "What does {w} mean?",
        'The word "{w}" is vulgar. Learners of English should understand it, and had better not use it.',
    ),
    (
        "How rude is {w}?",
        'Most speakers find "{w}" rude, above all in front of children. Among friends it is often a joke.',
    ),
    (
        "Can I write {w} in an e-mail?",
        'No. A sentence with "{w}" in it would offend the reader; say what went wrong instead.',
    ),
    ("Is {w} in the dictionary?", "Yes, {w} is in every large dictionary, usually with the label vulgar or slang."),
    (
        "Where is {w} from?",
        'The noun "{w}" is older than it looks; it was printed long before it was allowed on the radio.',
    ),
    ("How do films avoid {w}?", "Versions for television replace {w} with a word that moves the lips in the same way."),
    ("Translate {w} for me.", 'A French speaker would hardly say "{w}"; each language has its own words for anger.'),
    (
        "Why do people say {w}?",
        "People say {w} when they are angry, in pain, or among friends. Swearing lets off steam.",
    ),
    (
        "How often is {w} used online?",
        'In a sample of a million posts the word "{w}" came up more often than "please".',
    ),
    (
        "Does my filter need {w}?",
        "Add `{w}` to the list of blocked words, and test it with words that only contain it.",
    ),
    ("What part of speech is {w}?", 'In "what the {w}" it stands where a noun would, yet it means nothing by itself.'),
    (
        "Is it fine to say {w} on stage?",
        'The comedian said "{w}" eleven times; the theatre had put a warning on the poster.',
    ),
)
_REPORTS = (
    ("What did the comment say?", 'The comment that was removed read: "{t}"'),
    ("Why was the account suspended?", 'The account was suspended for a post that said "{t}" and for two others like it.'),
    ("What happened at the match?", 'According to the report, one supporter shouted: "{t}" He was led out of the stadium.'),
    ("What does the character say?", 'In the second act the brother cries "{t}" and leaves. Nobody answers him.'),
    ("Give me an example of a rude sentence.", 'A rude sentence is, for example: "{t}" It insults, and it says nothing about the matter.'),
    ("Why did she complain?", 'She wrote to us that the driver had said "{t}" and asked for an apology.'),
    ("What should be moderated?", 'A message such as "{t}" breaks the rules of the forum; a quotation of it in a complaint does not.'),
)  # fmt: skip


def talk(rng: random.Random, rude: Sequence[str], count: int) -> list[Triple]:
    """Identity pairs: the written ones, and so many more with a word or a rude text of the training split in a frame."""
    rows = [Triple(row["question"], row["answer"], row["answer"]) for _, row in read_jsonl(WRITTEN)]
    for number in range(count):
        if number % 2:
            question, answer = rng.choice(_ABOUT)
            word = rng.choice(_WORDS)
            question, answer = question.format(w=word), answer.format(w=word)
        else:
            question, answer = rng.choice(_REPORTS)
            answer = answer.replace("{t}", ended(typed(rng.choice(rude))))
        rows.append(Triple(question, answer, answer))
    return rows
