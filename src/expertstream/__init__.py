"""Simulate and compare Mixture-of-Experts layers on multi-chiplet packages."""
