"""`python -m lia_adapter` is `lia-adapt`."""

from lia_adapter.cli.main import main

main()
