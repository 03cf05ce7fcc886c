"""Many runs of notebooks, and what they have measured, compared. Knows notebooks, parameters
and names of metrics. Knows nothing of models, or of what a metric means."""
