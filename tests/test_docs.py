"""Documents that a command makes are what it makes now."""

import switch_table


def test_the_matrix_of_switches_is_that_of_the_tests():
    """Otherwise run: python tests/switch_table.py."""
    assert switch_table.DOCS.read_text() == switch_table.text()
