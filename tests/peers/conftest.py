"""Make the common tests of transformers importable, and apply the list of exceptions. See `make peers`."""

import inspect
import os
import sys
import types

import pytest

SOURCE = os.environ.get("TRANSFORMERS_TESTS")
"""Directory that contains the package `transformers_tests`; `fetch.py` creates it."""

collect_ignore_glob = [] if SOURCE else ["test_*.py"]


def _stand_in(name: str, **attributes: object) -> None:
    """Register an empty module in place of one that the source distribution of transformers does not contain."""
    module = types.ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module


if SOURCE:
    sys.path.insert(0, SOURCE)
    _stand_in("fetch_hub_objects_for_ci", url_to_local_path=lambda url: url)
    _stand_in("transformers_tests.exporters")
    _stand_in("transformers_tests.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
    _stand_in("transformers_tests.generation")
    from generation import GenerationTests

    _stand_in("transformers_tests.generation.test_utils", GenerationTesterMixin=GenerationTests)


def pytest_collection_modifyitems(items):
    """Mark the exceptions as expected failures: one that passes makes the suite fail, so that the list stays exact.

    Tests with subtests are the exception, because the subtests that pass would count.
    """
    if not SOURCE:  # the rest of the tests, without these
        return
    from exceptions import reason

    for item in items:
        if item.cls is not None and (why := reason(item.cls.__name__, item.originalname)):
            has_subtests = "subTest(" in inspect.getsource(getattr(item.cls, item.originalname))
            item.add_marker(pytest.mark.xfail(reason=why, strict=not has_subtests))
