"""Files and repositories of a plan."""

from selfexplain.publishing.repositories import PublishedFile, PublishedRepository, files_below


def test_size_is_the_sum_of_the_files(tmp_path):
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "b").write_bytes(b"12345")
    files = tuple(PublishedFile(name, tmp_path / name) for name in "ab")
    assert PublishedRepository("model", "lab/x", "explainer", files).size == 8


def test_owned_paths_match_a_pattern():
    repository = PublishedRepository("model", "lab/x", "explainer", (), ("lora/*", "*.safetensors"))
    assert repository.owns("lora/old.bin") and repository.owns("old.safetensors")
    assert not repository.owns("notes.md")


def test_origin_is_the_file_that_was_converted(tmp_path):
    assert PublishedFile("a", tmp_path / "a").origin == tmp_path / "a"
    assert PublishedFile("a", tmp_path / "a", tmp_path / "b").origin == tmp_path / "b"


def test_files_below_a_directory_are_sorted_and_relative(tmp_path):
    for name in ("b", "a/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert files_below(tmp_path) == [("a/c", tmp_path / "a" / "c"), ("b", tmp_path / "b")]
    assert files_below(tmp_path / "missing") == []
