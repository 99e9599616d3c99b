"""The jobs: each takes a configuration and inputs, and owns the names, the resuming and the figures of what it makes.

A job writes results, pictures (.png) and figures (.json). Pages are written by `lia_adapter.reports`, from what a job returned;
a command line, a web page or a script decides nothing that a job decides.
"""
