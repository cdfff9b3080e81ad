"""Images: reading files, adding noise, recognising folders, and the three roles that keep them apart."""
