"""One thin script for each table or figure; run them as `python -m recipes.NAME`."""
