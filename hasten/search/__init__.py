"""Which recipe is best? Advise, propose, choose."""
