"""Trained models as folders that other libraries load: Hugging Face's transformers, and what builds on it.

Nothing is imported here, so that the command line can name this package at no cost. `modeling`
alone needs transformers when it is imported, because it holds subclasses of its classes.
"""
