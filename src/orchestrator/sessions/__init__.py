"""Who owns what, and what happens when the owner dies."""
