"""How published models take bands, scale, time and place: interchangeable stems from pixels to tokens (rsfm.md 2.3).

One idea a file, with the rules of the paper or of its authors' code: ``fixed`` (a convolution in a fixed band order),
``groups`` (SatMAE), ``spectral`` (SpectralGPT), ``positions`` (Scale-MAE's by ground distance), ``distance_bias``
(CROMA), ``dynamic`` (DOFA), ``fourier`` (Copernicus-FM), ``channels`` (Panopticon), ``tubelet`` (Prithvi),
``modalities`` (TerraMind), ``space_time`` (AnySat, Galileo, Presto), ``clay``, and ``wave``, the reference of this
project. Tokens are [B, L, D], row by row.
"""
