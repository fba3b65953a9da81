"""A pipeline as data: what its expressions are made of, its nodes, stages and checks."""
