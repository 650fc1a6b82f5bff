"""Task vectors, for users of the field; they are arithmetic on weights (:mod:`manyone.weights.arithmetic`)."""

from manyone.weights.arithmetic import apply_task_vector, task_vector, task_vectors

__all__ = ["apply_task_vector", "task_vector", "task_vectors"]
