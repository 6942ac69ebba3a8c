"""Mutants: each is another program, and what is to be left alone is."""

import ast

from tools.mutate import mutants, mutate

SOURCE = '''
SIZE = 8

def clipped(x: int, least: int = 0) -> int:
    """1 < 2."""
    if not x >= least:
        raise ValueError(f"{x - 1} is below {least}, not > 3")
    x = min(x, 5 * SIZE)
    return -x
'''


def test_every_mutant_is_another_program():
    n = len(list(mutants(ast.parse(SOURCE))))
    made = [mutate(SOURCE, i) for i in range(n)]
    unchanged = ast.unparse(ast.parse(SOURCE))
    assert len({ast.unparse(ast.parse(mutant)) for mutant, _ in made} - {unchanged}) == n
    assert sorted(said.split("  ->  ")[1] for _, said in made) == sorted(
        [
            "def clipped(x: int, least: int=1) -> int:",
            "if True:",
            "if False:",
            "if not not x >= least:",
            "if not x > least:",
            "x = max(x, 5 * SIZE)",
            "x = min(x, 5 / SIZE)",
            "x = min(x, 6 * SIZE)",
            "return +x",
        ]
    )
    assert made[0][1].startswith("4: ")
