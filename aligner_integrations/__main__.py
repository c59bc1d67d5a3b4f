"""`python -m aligner_integrations` is the `aligner` program, for launchers that start modules (`accelerate launch -m`)."""

from aligner_integrations.cli import main

main()
