"""Layers: what is done to a network's layers, whatever the attack or the defense."""
