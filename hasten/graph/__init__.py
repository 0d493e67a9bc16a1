"""What is a model made of? An ONNX graph: its signature, weights, shapes, cost, and how to run it."""

from hasten.graph.graph import Graph

__all__ = ["Graph"]
