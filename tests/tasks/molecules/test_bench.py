"""`blockzoo bench equivariant`: every table at a small size, with the comparisons of outputs that it makes itself."""

import json

from blockzoo.__main__ import main


def test_tables_compare_ours_with_e3nn_and_the_plain_model(capsys):
    small = ["--edges", "24", "--chans", "4", "--l-max", "1", "--atoms", "4", "--runs", "1", "--json"]
    assert main(["bench", "equivariant", *small]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    variants = {(row["table"], row["variant"]) for row in rows}
    assert {("edge product", "e3nn uvu"), ("edge product", "EdgeProduct"), ("model", "plain")} <= variants
    assert {table for table, _ in variants} == {"edge product", "uuu product", "powers", "model"}
    assert all(row["ms"] > 0 for row in rows)


def test_a_checkout_that_is_none_is_named(capsys, tmp_path):
    options = ["--only", "model", "--l-max", "1", "--official", str(tmp_path)]
    assert main(["bench", "equivariant", *options]) != 0
    assert "models/tdn.py" in capsys.readouterr().err
