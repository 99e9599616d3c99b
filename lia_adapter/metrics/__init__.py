"""Measures, one idea a file. They take tensors or a generator, never a LIA."""
