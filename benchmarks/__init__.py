"""What the README's figures come from: each script prints one JSON line per row (`python -m benchmarks.envs`, …)."""
