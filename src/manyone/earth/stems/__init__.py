"""How published models take bands, scale, time and place: interchangeable stems from pixels to tokens."""
