"""What is pushed towards zero while a graph learns? Groups of weights, and the step that shrinks them."""
