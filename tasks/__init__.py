"""The modalities: one module each, one Task each. No module of bdray imports one: the seam is `Task.folder`."""
