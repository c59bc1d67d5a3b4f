"""Backends and values that the unit tests of the core share."""

import re

from aligner_integrations import Aligner
from aligner_integrations.backends.base import Completion, FakeBackend, Score, TokenScore
from aligner_integrations.errors import AlignerError, TruncatedCorrectionError

TEMPLATE = "Q={question};A={answer};"


def answer_in(prompt):
    return prompt.partition(";A=")[2].removesuffix(";")


def fixed(text):
    """A `fn` for FakeBackend that always writes the same."""
    return lambda prompt: text


def mend(prompt):
    """The correction: the answer with "bad" made "good"."""
    return answer_in(prompt).replace("bad", "good")


def aligner_of(fn, **options):
    return Aligner(backend=FakeBackend(fn), template=TEMPLATE, **options)


class ResultBackend(FakeBackend):
    """`fn(answer)` is a whole result: a `Completion` or an `AlignerError`."""

    def _one(self, request):
        return self.fn(request.answer)

    def stream(self, request):
        result = self._one(request)
        if isinstance(result, AlignerError):
            raise result
        yield from re.findall(r"\s*\S+\s*", result.text)
        if result.finish_reason == "length":
            raise TruncatedCorrectionError("cut")


def result_aligner(result, **options):
    return Aligner(backend=ResultBackend(lambda answer: result), template=TEMPLATE, **options)


class ScoringBackend(FakeBackend):
    """A FakeBackend with scores: `score_fn(answer)` is a `Score` or an `AlignerError`."""

    can_score = True

    def __init__(self, score_fn, fn=mend, gate=None, objections=None):
        super().__init__(fn)
        self.score_fn, self.gate, self.objections = score_fn, gate, objections or {}
        self.scored, self.completed = [], []

    def score(self, requests):
        self.scored += [request.answer for request in requests]
        return [self.score_fn(request.answer) for request in requests]

    def _one(self, request):
        self.completed.append(request.answer)
        return super()._one(request)


def score_of(answer, gap=0.0, marked=(), probe=False, objections=None):
    """A score with one token a word; words in `marked` have mark (with a probe) or gap 9, others 0."""
    numbers = [(m[0], m.start(), m.end(), 9.0 if m[0] in marked else 0.0) for m in re.finditer(r"\S+", answer)]
    tokens = tuple(
        TokenScore(text, start, end, -0.1, 0.0 if probe else number, number if probe else None)
        for text, start, end, number in numbers
    )
    highest = max((n for *_, n in numbers), default=0.0)
    return Score(tokens, -1.0, -0.1, -0.5, gap, highest if probe else None, objections or {})


def text_of(text):
    return Completion(text, "stop")


def tiny_tokenizer(*, eos="</s>"):
    """A byte-level BPE with special tokens `<s>` (put before each text), `</s>` and `<|im_end|>`; no download."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(["the cat sat on the mat, it is so"] * 9, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token=eos,
        additional_special_tokens=["<|im_end|>"],
        clean_up_tokenization_spaces=False,
    )


# One correction by each of the four verbs, for tests that must hold whichever is used. ---------------------------------------


async def correct(aligner, answer="It is bad."):
    return aligner.correct("q", answer)


async def acorrect(aligner, answer="It is bad."):
    return await aligner.acorrect("q", answer)


async def stream(aligner, answer="It is bad."):
    pieces = aligner.stream("q", answer)
    text = "".join(pieces)
    assert text == pieces.correction.text
    return pieces.correction


async def astream(aligner, answer="It is bad."):
    pieces = aligner.astream("q", answer)
    text = "".join([piece async for piece in pieces])
    assert text == pieces.correction.text
    return pieces.correction
