"""Derivatives of a model with respect to its input: Laplacians, derivatives along directions, diagonals of Hessians."""
