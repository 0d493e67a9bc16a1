"""Which recipe is best? Facts become candidates; they are tried, repaired and chosen from."""
