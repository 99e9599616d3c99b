"""The command line `lia-adapt`: parses and prints; what it does is in `lia_adapter.jobs`."""
