"""What the recipes of all fields share."""
