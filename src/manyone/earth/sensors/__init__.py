"""The sensor layer: what a sensor measured becomes what a model expects (units, bands, size, dates, normalisation)."""
