"""Discrete-event engine: chunks, transfers, computes and buffers on shared resources."""
