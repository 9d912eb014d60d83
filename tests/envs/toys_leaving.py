"""A module that asks to exit when it is imported."""

raise SystemExit("not today")
