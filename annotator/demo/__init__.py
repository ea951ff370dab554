"""The whole loop on the shipped sample, with people or with simulated ones."""
