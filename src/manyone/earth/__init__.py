"""Earth: which remote-sensing model for which sensor and task, measured the same way."""
