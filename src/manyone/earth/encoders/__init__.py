"""Encoders: from prepared pixels or places to feature maps and vectors, own ones and adapters of other libraries."""
