from selfexplain import SelfExplainerConfig, SelfExplainerForCausalLM  # pip install selfexplain
