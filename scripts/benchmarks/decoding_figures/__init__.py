"""The parts of ``decoding.py``: what is measured, one module per question. Every function returns a flat mapping."""
