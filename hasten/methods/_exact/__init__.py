"""What do exact rewrites make of a graph, and is it still the same function? What their methods share."""
