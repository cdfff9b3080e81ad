"""Fine-tuning: the repaired network is trained to do what the dense one did, on images that may be looked at for that."""
