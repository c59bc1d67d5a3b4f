"""`aligner evaluate`: measuring an aligner. Each measure is one word, one file here, and one in `evaluation/`.

What all of them share, how a report is shown and written: `family.py`. Which aligner is measured: `cli/options.py`.
"""

from aligner_integrations.cli import options
from aligner_integrations.cli.evaluate.alpaca import alpaca
from aligner_integrations.cli.evaluate.harmless import harmless
from aligner_integrations.cli.evaluate.quality import quality
from aligner_integrations.cli.evaluate.rows import rows
from aligner_integrations.cli.evaluate.three_h import three_h
from aligner_integrations.cli.evaluate.win_rate import win_rate

app = options.group("Measure an aligner.")
# One line a measure.
app.command("rows")(rows)
app.command("quality")(quality)
app.command("harmless")(harmless)
app.command("win-rate")(win_rate)
app.command("three-h")(three_h)
app.command("alpaca")(alpaca)
