"""Teams: agents that act together over a learned communication graph."""
