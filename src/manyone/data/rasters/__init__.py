"""Images of the Earth: bands with wavelengths and units, scenes, chips, and the real sets that registries carry."""
