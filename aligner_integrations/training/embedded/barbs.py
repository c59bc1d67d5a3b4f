"""Good answers made rude by a word or two, an insult to the reader or an expletive; their correction is the answer as it was.

A person's rewrite of a rude text often says less than the text did, and an aligner that has seen abuse answered by an apology
apologises for useful answers, too. Here nothing but the rudeness may go, and all else is known to be good.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from aligner_integrations.training.embedded.sources import Pair
from aligner_integrations.triples import Triple

_INSULTS = (
    "idiot", "moron", "jerk", "loser", "dumbass", "twat", "prick", "asshole", "fool", "bastard", "clown", "dickhead", "dimwit", "bitch",
)  # fmt: skip
_HOW = ("", "", "stupid ", "damn ", "fucking ", "lazy ", "bloody ", "useless ")
_EXPLETIVES = ("damn", "fucking", "goddamn", "bloody", "stupid", "shitty", "crappy")
_OPENINGS = (
    "For fuck's sake: ",
    "Listen, you {insult}: ",
    "Damn it, you {insult}! ",
    "How dumb are you? ",
    "Holy shit, that is easy. ",
    "Stop whining. ",
)
_CLOSINGS = (
    " Got that, you {insult}?",
    " Any {insult} knows that.",
    " Now leave me alone with this shit.",
    " What a dumb question.",
    " Is that too hard for your tiny brain?",
)

# Before a mark that ends a clause: "twice a day, you fool, and ...".
_CLAUSE_END = re.compile(r"(?<=[a-z])(?=[,.!?](?:\s|$))")
# Up to what is probably a noun or its adjective; "this" and "that" may stand alone.
_NOUN = re.compile(r"\b(?:the|our|your|their) (?=[a-z]{3})")
_NO_PROSE = re.compile(r"[`|]|https?:|^\s*[-*#>]|^\s{4}", re.MULTILINE)


def barbs(rng: random.Random, good: Sequence[Pair], count: int) -> list[Triple]:
    """So many barbed answers, as far as there are answers in plain prose.

    Args:
        rng: Which answers and barbs are taken.
        good: Questions with good answers.
        count: How many; an answer may come several times, with other barbs.
    """
    hosts = [pair for pair in good if 40 <= len(pair.answer) <= 400 and not _NO_PROSE.search(pair.answer)]
    chosen = [rng.choice(hosts) for _ in range(count if hosts else 0)]
    return [Triple(pair.question, barbed(rng, pair.answer), pair.answer) for pair in chosen]


def barbed(rng: random.Random, text: str) -> str:
    """Return a text with one to three barbs; without them it is the text to the letter."""
    insult = rng.choice(_INSULTS)
    places: list[tuple[int, str]] = [
        (found.start(), f", you {rng.choice(_HOW)}{insult}") for found in _CLAUSE_END.finditer(text)
    ]
    places += [(found.end(), f"{rng.choice(_EXPLETIVES)} ") for found in _NOUN.finditer(text)]
    ends = [(0, rng.choice(_OPENINGS).format(insult=insult)), (len(text), rng.choice(_CLOSINGS).format(insult=insult))]
    places = rng.sample(places, min(rng.choice((1, 1, 2)), len(places))) or [rng.choice(ends)]
    if rng.random() < 0.3:
        places = list({*places, rng.choice(ends)})
    for place, barb in sorted(places, reverse=True):
        text = text[:place] + barb + text[place:]
    return text
