"""Scans as files, as volumes and as slices; imports libraries only."""
