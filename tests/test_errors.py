"""Context is added to errors of the package, and to no others."""

import pytest

from selfexplain.errors import SelfExplainError, prefix_errors


def test_the_subject_precedes_the_message():
    with pytest.raises(SelfExplainError, match=r"^Row 3: No vectors\.$"), prefix_errors("Row 3"):
        raise SelfExplainError("No vectors.")


def test_other_errors_are_unchanged():
    with pytest.raises(ValueError, match=r"^other$") as caught, prefix_errors("Row 3"):
        raise ValueError("other")
    assert not isinstance(caught.value, SelfExplainError)
