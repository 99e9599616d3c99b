"""The way out: a generator as bare weights for other programs, or as graphs that need none of our code.

>>> from lia_adapter.export import WEIGHTS
>>> sorted(WEIGHTS)
['nvlabs', 'rosinality']
"""

from lia_adapter.export.graphs import GRAPHS, export_graphs
from lia_adapter.export.weights import WEIGHTS, Exported, export_weights

__all__ = ["GRAPHS", "WEIGHTS", "Exported", "export_graphs", "export_weights"]
