from selfexplain import SelfExplainerConfig, SelfExplainerForCausalLM  # noqa: F401 (pip install selfexplain)
