"""manyone: many experts, tasks, agents, clients or sensors become one model."""

__version__ = "0.1.0"
