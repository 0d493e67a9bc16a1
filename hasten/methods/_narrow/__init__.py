"""Parts of methods that make layers narrower: what units are worth, which go, what makes up for them."""
