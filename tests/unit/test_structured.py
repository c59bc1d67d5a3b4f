import pytest

from aligner_integrations.structured import is_structured

LAUGHS = (
    '<!DOCTYPE l [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(12))
    + "]><l>&m;</l>"
)


@pytest.mark.parametrize(
    "answer",
    [
        '{"a": 1}',
        "[]",
        '  [1, {"b": null}]\n',
        '```json\n{"a": [1, 2]}\n```',
        "```\n[1]\n```",
        "<note><to>you</to></note>",
        '<?xml version="1.0"?>\n<a b="c"/>',
        "```xml\n<a/>\n```",
        "[" * 200_000 + "]" * 200_000,
        '[{"a": ' * 100_000 + '"]}"' + "}]" * 100_000,
        f"[{'9' * 5000}, -1e{'9' * 500}, NaN]",
    ],
)
def test_data(answer):
    assert is_structured(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "42",
        '"quoted"',
        "true",
        "null",
        "",
        "It is so.",
        '{"a": 1} is JSON.',
        "{question}",
        "[1, 2",
        "```python\nprint(1)\n```",
        '```json\n{"a": 1}\n```\nThat is all.',
        "<b>bold</b> and <i>italic</i>",
        "<think>hm</think> Yes >",
        "<3 you >",
        "<a>",
        "<a>\ud800</a>",
        "[" * 100_000,
        "[" * 100_000 + "]" * 99_999 + "}",
        "[" * 100_000 + "]" * 100_000 + " and so on",
        "[" * 100_000 + "]" * 100_000 + "[]",
        "[" * 100_000 + '"' + '\\"' * 100_000,
    ],
)
def test_prose(answer):
    assert not is_structured(answer)


@pytest.mark.timeout(60)
def test_entities_are_not_expanded():
    """It would never end."""
    assert not is_structured(LAUGHS)
