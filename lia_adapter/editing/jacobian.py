"""Where the picture changes fastest (Ramesh 2018): right-singular vectors of the generator's Jacobian, averaged over codes."""

from lia_adapter.editing.directions import Direction
from lia_adapter.editing.task import Task
from lia_adapter.errors import ConfigError
from lia_adapter.metrics.recovery import pixel_spectrum

__all__ = ["jacobian"]

_CODES = 32
_NUMBER = 2**31  # of their random stream


def jacobian(task: Task) -> list[Direction]:
    """Leading eigenvectors of E[JᵀJ], J the derivative of the picture by white y: those that move pixels most.

    A single code's singular vectors turn along the path; their mean over codes is what one direction for all can have.

    Args:
        task: `count` directions.

    Raises:
        ConfigError: More directions than y has entries.
    """
    config, space = task.config, task.space
    if config.count > (dim := task.generator.y_dim):
        raise ConfigError(f"count is {config.count}; y has {dim} entries: set count={dim}, or less.")
    y, _ = task.y(_CODES, _NUMBER)
    values, vectors = pixel_spectrum(task.generator, y, space.root, progress=task.progress)
    steps = space.coloured(vectors.t()[: config.count])
    shares = (values / values.sum()).tolist()[: config.count]
    return task.numbered(steps, [{"share_of_change": share} for share in shares])
