"""Models of other libraries as encoders: each file knows how one library builds, feeds and reads its networks."""
