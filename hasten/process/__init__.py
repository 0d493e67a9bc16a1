"""How does risky work run elsewhere? In a child process that may crash without taking hasten with it."""

from hasten.process.worker import Worker, call

__all__ = ["Worker", "call"]
