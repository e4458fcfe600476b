"""Layers that two or more models share; torch only."""
