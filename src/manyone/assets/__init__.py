"""Where real data and weights come from: one record per asset, fetched through the ordinary clients, verified, cached.

Packages are opened as archives: nothing of them is installed, imported or unpickled.
"""
