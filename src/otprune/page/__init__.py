"""A page in the browser: ask both ways, and see what pruning keeps, costs and saves.

`layout` and `serve` alone know gradio. What they show is made by functions of an image, a question
and a visitor's settings, so that visitors share a model and nothing else.
"""
