"""The cache of replies keeps replies by key."""

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.features.reply_cache import ReplyCache, write_reply


def test_written_replies_are_read_back_and_replaced(tmp_path):
    cache = ReplyCache(tmp_path / "new" / "replies.sqlite")
    assert cache.read(["a"]) == {}
    with cache.open() as connection:
        write_reply(connection, "a", "first")
        write_reply(connection, "b", "other")
        write_reply(connection, "a", "second")
    assert cache.read(["a", "b", "c"]) == {"a": "second", "b": "other"}


def test_a_file_that_is_not_a_cache_raises_an_error(tmp_path):
    (tmp_path / "replies.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(SelfExplainError, match="is not a cache of replies"):
        ReplyCache(tmp_path / "replies.sqlite").read(["a"])
