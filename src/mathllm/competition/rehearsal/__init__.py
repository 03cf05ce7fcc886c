"""Kaggle played on this machine with what was vendored: commit run, reruns, faults."""
