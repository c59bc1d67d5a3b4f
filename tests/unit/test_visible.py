"""Nothing that is text may control what shows it."""

import pytest

from aligner_integrations.visible import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x9b31m and \x7f", r"\x9b31m and \x7f"),
        ("over\rwritten", r"over\x0dwritten"),
        ("a\x00b\x07c\x08", r"a\x00b\x07c\x08"),
        ("admin\u202egpj.exe", r"admin\u202egpj.exe"),
        ("\u2066isolate\u2069", r"\u2066isolate\u2069"),
        ("\u2028line", r"\u2028line"),
        ("\ud800", r"\ud800"),
    ],
)
def test_controls_become_visible(text, shown):
    assert visible(text) == shown


@pytest.mark.parametrize(
    "text", ["tab\tand\nnewline", "windows\r\nline", "naïve 日本語 שלום 👩‍💻", "[bold]markup[/bold]", r"\x1b"]
)
def test_ordinary_text_stays(text):
    assert visible(text) == text
