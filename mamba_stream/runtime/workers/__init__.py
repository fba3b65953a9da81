"""A job of many tasks: what they tell each other, the workers that run them, and who gives them out."""
