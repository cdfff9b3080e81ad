"""Prune trained PyTorch networks by QUBO."""
