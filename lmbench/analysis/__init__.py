"""Tables, statistics and figures from the store; no torch here."""
