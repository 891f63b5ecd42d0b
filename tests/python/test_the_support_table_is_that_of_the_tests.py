"""docs/support.md says what the tests load, no more and no less. Needs no binary."""

import support_table


def test_the_table_is_made_from_the_cases_of_the_tests():
    cases = support_table.collected()
    assert len(cases) > 100, "a table without cases would agree with any tests"
    assert {loader for loader, _, _ in cases} == {*support_table.LETTERS, "names"}
    _, made, _ = support_table.parts()
    assert made == support_table.tables(cases), "run tests/python/support_table.py"
