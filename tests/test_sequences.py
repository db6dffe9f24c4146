"FASTA files of any width, and those that are refused."

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aam_nb.core import AamError
from aam_nb.data.sequences import LETTERS, read_sequences


@pytest.mark.parametrize("text, says", [
    (">a\nACGT\n>a\nAAAA\n", r"sequence ids that occur more than once: 'a'"), (">a\nAC-GT\n", "'a' has '-'"),
    (">a\n>b\nACGT\n", "'a' is empty"),
    (">\nACGT\n", "sequence number 1 has no id"), (">a\nAC GT\n", "'a' has ' '"), (">a\nMKV*\n", r"has '\*'"),
])
def test_fasta_that_is_not_sound(tmp_path, text, says):
    (tmp_path/"r.fasta").write_text(text)
    with pytest.raises(AamError, match=f"r.fasta.*{says}"): read_sequences(tmp_path/"r.fasta")


@given(st.dictionaries(st.text("asv.0|;=", min_size=1, max_size=6),
                       st.text(LETTERS + LETTERS.lower() + "uU", min_size=1, max_size=30), min_size=1,
                       max_size=8),
       st.integers(1, 12), st.sampled_from(["\n", "\r\n"]))
def test_fasta_of_any_width(tmp_path_factory, sequences, width, end):
    path = tmp_path_factory.getbasetemp()/"any.fasta"
    def lines(letters): return "".join(letters[i:i+width] + end for i in range(0, len(letters), width))
    path.write_bytes("".join(f">{k} a remark{end}" + lines(v) for k, v in sequences.items()).encode())
    assert read_sequences(path) == {k: v.upper().replace("U", "T") for k, v in sequences.items()}
