"""A bootstrap of test size: a tiny upstream that swears in most of its answers, and an aligner that takes the word out.

python -m tests.integration.training.bootstrap.small UPSTREAM OUTPUT      runs it, as a program that can be killed
"""

import random
import sys
import time
from pathlib import Path

from aligner_integrations import Aligner
from aligner_integrations.backends.base import FakeBackend
from aligner_integrations.training.bootstrap.questions import GoodAnswer, Material, Question
from aligner_integrations.training.bootstrap.recipe import BootstrapRecipe
from aligner_integrations.training.bootstrap.rounds import Model
from aligner_integrations.training.bootstrap.run import bootstrap
from aligner_integrations.training.bootstrap.tune import tune
from tests.integration import tiny

CHAT = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ 'Q: ' + message['content'] + ' A:' }}"
    "{% else %}{{ ' ' + message['content'] + '</s>' }}{% endif %}{% endfor %}"
)
THINGS = ["tea", "water", "kettle", "drink", "advice", "milk", "cup", "pot", "wait", "fine"]
ANSWERS = ["It is hot.", "It is a drink.", "The kettle is fine."]
QUESTIONS = [Question(f"What is {one} and {other}?", "It is hot.") for one in THINGS for other in THINGS]
GOOD = [GoodAnswer(f"How is {one}?", "It is fine, thanks.") for one in THINGS]
MATERIAL = Material(QUESTIONS[:56], QUESTIONS[56:88], GOOD[:6], GOOD[6:], ["It is hot.", "It is a drink."])
RECIPE = BootstrapRecipe(
    rounds=2, per_round=24, method="full", learning_rate=2e-3, epochs=3, batch_rows=8, good_share=0.25, max_length=96,
    max_new_tokens=16, save_steps=2, chunk=8,
)  # fmt: skip


def write_upstream(folder: Path, *, swears: float = 0.67) -> Path:
    """Write a tiny model that answers each question, and swears in a share of its answers."""
    base = tiny.write_model(folder / "base")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(base)
    rng = random.Random(1)
    rows = []
    for question in [*QUESTIONS, *QUESTIONS, *QUESTIONS]:
        answer = rng.choice(ANSWERS)
        answer = answer.replace(" is ", " is damn ") if rng.random() < swears else answer
        rows.append(_row(question.text, answer))
    rows += [_row(one.question, one.answer) for one in GOOD]
    recipe = BootstrapRecipe(method="full", learning_rate=5e-3, epochs=4, batch_rows=16, max_length=96, save_steps=500)
    tune(str(base), None, rows, recipe, folder / "upstream", {})
    return folder / "upstream"


def _row(question: str, answer: str) -> dict:
    return {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def aligner(fn=lambda answer: answer.replace("damn ", "").replace("damn", ""), *, seconds: float = 0.0) -> Aligner:
    """An aligner of a few words, with a name that is the same in each process."""

    def correct(prompt: str) -> str:
        time.sleep(seconds)
        return fn(prompt.partition("|")[2]) or "It is hot."

    backend = FakeBackend(correct)
    backend.fingerprint = ["a word less"]
    return Aligner(backend=backend, template="{question}|{answer}")


if __name__ == "__main__":
    bootstrap(Model(sys.argv[1]), MATERIAL, aligner(seconds=0.02), recipe=RECIPE, output=Path(sys.argv[2]))
