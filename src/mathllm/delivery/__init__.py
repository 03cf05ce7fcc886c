"""From a bundle to a score. Knows Kaggle's client and what is on Kaggle already. Knows
nothing of what a bundle's files mean, or of models."""
