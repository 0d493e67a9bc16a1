"""What shall the reader believe? A run record becomes a page."""
