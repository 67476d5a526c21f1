"""Rewriting a model so that a Linear and its activation run as one op, and back."""
