"""The command line: `aligner demo | correct | evaluate | models | ...`.

`app.py` puts the commands together and answers errors, `console.py` keeps text from controlling the terminal,
`options.py` holds what commands share, and every other file is one command. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit."""
    from aligner_integrations.cli.app import run

    run()
