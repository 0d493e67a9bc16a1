"""What is the mathematics? Quantizers and range estimators on arrays; numpy only."""
