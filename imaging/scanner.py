"""Another scanner, as a study asks for one to be simulated on real MR scans: plain values, read without scipy."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Scanner(BaseModel):
    """`scanner = { blur_mm = 2.0, noise = 0.05 }`: what it does to what this one saw (`preceptor rescan`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    gamma: float = Field(1.0, ge=0.1, le=10)
    """Another sequence's contrast: each signal, 0 to 1 of the brightest, to this power."""
    shading: float = Field(0.0, ge=0, le=2)
    """Deviation of a slow bias field (log scale)."""
    blur_mm: float = Field(0.0, ge=0, le=20)
    """Full width at half maximum of an in-plane point spread function, beside the scan's own."""
    noise: float = Field(0.0, ge=0, le=1)
    """Deviation of each channel's noise, of the brightest signal (Rician once the magnitude is taken)."""
