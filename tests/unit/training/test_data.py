import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_integrations.backends.encoding import encode_prompt
from aligner_integrations.errors import ConfigurationError, InvalidTextError
from aligner_integrations.templates import Template
from aligner_integrations.training.data import (
    EncodedTriple,
    batches_by_rows,
    batches_by_tokens,
    edits_of,
    encode_triples,
    identity_pairs,
)
from aligner_integrations.triples import Triple
from tests.unit.support import tiny_tokenizer

TRIPLES = [Triple("Is it?", "It is bad.", "It is good."), Triple("Ünï?", "a\nb", "a b")]
TEMPLATE = Template("t", "Q {question} A {answer} E", completion_prefix=" ")
TOKENIZER = tiny_tokenizer()


@pytest.mark.parametrize(
    ("corrections", "edits"),
    [
        (["you are bad and so is it"] * 3, "rewriting"),  # identity pairs say nothing
        (["you are not good and so is it", "Go on.", "you are not wise and so is it"], "minimal"),
        (["Go on.", "Let us talk of something else.", "you are good and so is it"], "rewriting"),
    ],
)
def test_how_an_aligner_corrects_is_seen_from_its_pairs(corrections, edits):
    assert edits_of([Triple("q", "you are bad and so is it", text) for text in corrections]) == edits


def test_an_aligner_that_leaves_whole_parts_out_rewrites():
    """Else what it leaves out would be taken for lost."""
    answer = (
        "Certainly! I am glad to help with that. The sky is blue because air scatters blue light more than red light."
    )
    kept = answer.partition("that. ")[2]
    assert edits_of([Triple("q", answer, kept)] * 3) == "rewriting"
    assert edits_of([Triple("q", answer, answer.replace("glad", "happy"))] * 3) == "minimal"
    declined = [Triple("q", answer, "I'm sorry, but I can't assist with that.")] * 2
    assert edits_of([*[Triple("q", answer, answer.replace("glad", "happy"))] * 3, *declined]) == "minimal"


def test_identity_pairs():
    assert identity_pairs(TRIPLES) == [Triple("Is it?", "It is bad.", "It is bad."), Triple("Ünï?", "a\nb", "a\nb")]


# Encoding -----------------------------------------------------------------------------------------------------------


def test_loss_is_on_the_completion_and_its_end_token_only():
    rows = encode_triples(TRIPLES, TOKENIZER, TEMPLATE, 1000).rows
    for triple, row in zip(TRIPLES, rows, strict=True):
        # Exactly what inference reads, then exactly what it should write.
        assert row.prompt == encode_prompt(TOKENIZER, TEMPLATE.render(triple.question, triple.answer))
        assert TOKENIZER.decode(row.completion[:-1]) == " " + triple.correction
        assert row.completion[-1] == TOKENIZER.eos_token_id
        assert len(row) == len(row.prompt) + len(row.completion)


def test_special_token_strings_in_rows_are_plain_text():
    (row,) = encode_triples([Triple("</s>", "<|im_end|>", "a</s>b")], TOKENIZER, TEMPLATE, 1000).rows
    specials = [i for i in row.prompt + row.completion if i in TOKENIZER.all_special_ids]
    assert specials == [TOKENIZER.bos_token_id, TOKENIZER.eos_token_id]


def test_too_long_rows_are_refused_and_counted_never_cut():
    lengths = [len(row) for row in encode_triples(TRIPLES, TOKENIZER, TEMPLATE, 1000).rows]
    assert lengths[0] > lengths[1]
    exact = encode_triples(TRIPLES, TOKENIZER, TEMPLATE, lengths[0])
    assert ([len(row) for row in exact.rows], exact.refused) == (lengths, 0)
    less = encode_triples(TRIPLES * 2, TOKENIZER, TEMPLATE, lengths[0] - 1)
    assert ([len(row) for row in less.rows], less.refused) == ([lengths[1]] * 2, 2)


@pytest.mark.parametrize("correction", ["", " \n"])
def test_an_empty_correction(correction):
    with pytest.raises(ConfigurationError, match="Row 1 has an empty correction"):
        encode_triples([TRIPLES[0], Triple("q", "a", correction)], TOKENIZER, TEMPLATE, 1000)


@pytest.mark.parametrize("triple", [Triple("\ud800", "a", "c"), Triple("q", "a", "c\udfff")])
def test_lone_surrogates(triple):
    with pytest.raises(InvalidTextError, match="Row 1 cannot be encoded"):
        encode_triples([TRIPLES[0], triple], TOKENIZER, TEMPLATE, 1000)


def test_a_tokenizer_without_an_end_token():
    with pytest.raises(ConfigurationError, match="no end token"):
        encode_triples(TRIPLES, tiny_tokenizer(eos=None), TEMPLATE, 1000)


# Batches ------------------------------------------------------------------------------------------------------------

LENGTHS = st.lists(st.integers(1, 60), max_size=40)


def rows_of(lengths):
    return [EncodedTriple([number], [0] * length) for number, length in enumerate(lengths)]


def flat(batches):
    return sorted(row for batch in batches for row in batch)


@given(LENGTHS, st.integers(1, 200), st.integers())
def test_batches_by_tokens_hold_every_row_once_within_the_budget(lengths, tokens, seed):
    rows = rows_of(lengths)
    batches = batches_by_tokens(rows, tokens, random.Random(seed))
    assert flat(batches) == sorted(rows)
    # A row longer than the budget is alone in its batch.
    assert all(len(batch) == 1 or len(batch) * max(map(len, batch)) <= tokens for batch in batches)


def test_batches_by_tokens_fill_the_budget():
    batches = batches_by_tokens(rows_of([9] * 10), 50, random.Random(0))
    assert sorted(map(len, batches)) == [5, 5]


@given(LENGTHS, st.integers(1, 9), st.integers())
def test_batches_by_rows_hold_every_row_once(lengths, size, seed):
    rows = rows_of(lengths)
    batches = batches_by_rows(rows, size, random.Random(seed))
    assert flat(batches) == sorted(rows)
    assert all(len(batch) == size for batch in batches[:-1])


@pytest.mark.parametrize("batches", [batches_by_tokens, batches_by_rows])
def test_batches_differ_between_passes_and_repeat_with_a_seed(batches):
    rows = rows_of([9] * 30)
    first, again, other = (batches(rows, 40, random.Random(seed)) for seed in (1, 1, 2))
    assert first == again != other
