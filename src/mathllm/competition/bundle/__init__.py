"""What goes to Kaggle: planned, checked, laid out, sealed by a manifest."""
