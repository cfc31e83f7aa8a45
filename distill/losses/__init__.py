"""Losses as plain functions, one value a slice."""
