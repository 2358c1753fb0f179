"""Whole iterations and many requests: attention, requests, token buffering, reports."""
