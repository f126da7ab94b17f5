"""The common processor tests of transformers, run on the processor of an explainer."""

import unittest

import pytest
from transformers_tests.test_processing_common import ProcessorTesterMixin

from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor

TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}{% endif %}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def kept_tokenizer(tokenizer):
    """Make the tokenizer available to `setUpClass`, which runs before the fixtures of a test."""
    TestProcessor.tokenizer = tokenizer


class TestProcessor(ProcessorTesterMixin, unittest.TestCase):
    processor_class = SelfExplainerProcessor

    @classmethod
    def _setup_tokenizer(cls):
        return cls.tokenizer


class TestChatProcessor(TestProcessor):
    @classmethod
    def _setup_tokenizer(cls):
        from copy import deepcopy

        tokenizer = deepcopy(TestProcessor.tokenizer)
        tokenizer.chat_template = TEMPLATE
        return tokenizer
