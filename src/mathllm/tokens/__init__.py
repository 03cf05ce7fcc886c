"""Rows of token ids, and batches of them as tensors.

Knows ids and lengths. Knows neither text nor files nor models.
"""
