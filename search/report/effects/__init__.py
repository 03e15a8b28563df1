"""Designs of several factors: main effects and interactions."""
