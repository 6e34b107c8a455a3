"""Timings against diffusers and transformers on the same weights: `python -m benchmarks` writes RESULTS.md."""
