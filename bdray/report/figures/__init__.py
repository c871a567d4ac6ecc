"""Figures: pictures of rows, each with the numbers behind it."""
