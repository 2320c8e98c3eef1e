"""The page that lesson 4 writes, and what it is made of."""
