"""Data selection in pure parts: which pieces of a training text are learned from, and in what order.

The order of the stages is fixed: duplicates go (`dedup`), what is left is scored inside its domain
(`scores`), each domain gets its quota of tokens (`quotas`), the kept pieces are paced from easy to
hard (`pacing`) and laid out in rows (`packing`). `choose` runs them; `report` says what each did.
Nothing here knows a model, a run or a device.
"""
