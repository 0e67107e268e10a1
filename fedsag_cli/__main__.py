"""`python -m fedsag_cli` is `fedsag`."""

from fedsag_cli.cli import main

main()
