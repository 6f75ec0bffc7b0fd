"""A selection as others can use it: rows in the published schema of s1K, and a card that says what they are."""
