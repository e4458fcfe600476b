"""Measures: scores, FLOPs, reference predictors."""
