"""What the project costs, what choosing the pairs saves, and which pairs need no person."""
