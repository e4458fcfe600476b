"""What is measured of models and scored of finished runs, each a record of the store like a run.

The digest of such a config names its folder; whatever it says was measured or scored once, is read
from there by every table and figure. Like `run`, this package knows neither models nor tasks.
"""
