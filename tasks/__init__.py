"""The modalities: one module each, one Task each. The seam to bdray is the name of this folder."""
