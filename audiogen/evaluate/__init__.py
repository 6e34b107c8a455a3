"""Metrics, embeddings and reports."""
