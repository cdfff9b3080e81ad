"""What ships with the package: photographs to calibrate on, a trained checkpoint, and their licences."""
