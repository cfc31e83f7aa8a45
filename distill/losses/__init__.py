"""Losses as plain functions, one value a slice or patch.

Shapes are told for slices; a patch has its depth before (H, W), a feature grid its own before (h, w).
"""
