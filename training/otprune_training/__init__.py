"""How the embedded model is made: scenes, questions, training, evaluation, export."""
