"""Cannot be imported."""

LIMIT = {}["speed"]
