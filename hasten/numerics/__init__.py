"""What is the mathematics? Quantizers, range estimators and readings of outputs, on arrays; numpy only."""
