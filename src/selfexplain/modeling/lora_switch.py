"""Switch LoRA weights off for the calling thread, while other threads use them."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock

from torch import nn

_OFF: ContextVar[frozenset["LoraSwitch"]] = ContextVar("selfexplain_lora_off", default=frozenset())


class LoraSwitch:
    """Whether the adapters of a model are off, as a truth value of the calling thread or asyncio task.

    peft's layers read their attribute `_disable_adapters` in each forward pass. While any thread has the adapters
    switched off, that attribute is this object in place of False.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._depth = 0  # number of `off` blocks of all threads

    def __bool__(self) -> bool:
        return self in _OFF.get()

    def __reduce__(self) -> tuple:
        return LoraSwitch, ()  # a copy of the model is not inside any block

    @contextmanager
    def off(self, model: nn.Module) -> Iterator[None]:
        """Switch the adapters of `model` off inside the block, for the calling thread only. Blocks may be nested.

        Adapters that peft has disabled stay disabled. No parameter changes `requires_grad`.
        """
        if self:
            yield
            return
        with self._lock:
            self._depth += 1
            self._replace(model, (False, self), self)
        _OFF.set(_OFF.get() | {self})
        try:
            yield
        finally:
            _OFF.set(_OFF.get() - {self})
            with self._lock:
                self._depth -= 1
                if not self._depth:
                    self._replace(model, (self,), False)

    @staticmethod
    def _replace(model: nn.Module, old: tuple[object, ...], new: object) -> None:
        for module in model.modules():
            value = vars(module).get("_disable_adapters", getattr(type(module), "_disable_adapters", None))
            if any(value is one for one in old):
                setattr(module, "_disable_adapters", new)  # noqa: B010 - mypy expects Tensor or Module
