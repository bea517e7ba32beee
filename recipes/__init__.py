"""Scripts that repeat the papers' tables and figures, one each, and what they share in `recipes.common`.

`benchmark` and `input_speed` measure speed instead of a comparison of methods. They stay here because a user starts
them in the same way, `python -m recipes.benchmark`, with the same options and the same folder for results.
"""
