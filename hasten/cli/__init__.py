"""What does a person type? One file a command; no logic."""
