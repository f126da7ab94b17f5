"""A tokenizer written in Python, which has no character offsets."""

from transformers import PreTrainedTokenizer


class SlowTokenizer(PreTrainedTokenizer):
    """Gives the tokens of a fast tokenizer.

    Args:
        fast: tokenizer to imitate.
    """

    model_input_names = ("input_ids", "attention_mask")

    def __init__(self, fast, **kwargs):
        self._fast = fast
        self._ids = fast.get_vocab()
        self._tokens = {token_id: token for token, token_id in self._ids.items()}
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        super().__init__(**{name: getattr(fast, name) for name in names}, chat_template=fast.chat_template, **kwargs)

    @property
    def vocab_size(self):
        return len(self._ids)

    def get_vocab(self):
        return self._ids | self.added_tokens_encoder

    def _tokenize(self, text, **kwargs):
        return self._fast.tokenize(text)

    def _convert_token_to_id(self, token):
        return self._ids.get(token, self.unk_token_id)

    def _convert_id_to_token(self, index):
        return self._tokens[index]

    def convert_tokens_to_string(self, tokens):
        return self._fast.convert_tokens_to_string(tokens)

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        return [self.bos_token_id, *token_ids_0]
