"""What is the mathematics? numpy only: quantizers, range estimators, statistics."""
