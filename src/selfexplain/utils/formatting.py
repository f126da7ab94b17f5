"""Numbers and names as people read them."""


def format_duration(seconds: float) -> str:
    """Seconds as text: `42 s`, `3 min 20 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_rest = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_rest} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def format_bytes(n_bytes: float) -> str:
    """Bytes as text: `1.2 MB`, `3.4 GB` (decimal units)."""
    return f"{n_bytes / 1e6:,.1f} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:,.1f} GB"


def format_name(name: str) -> str:
    """An identifier as words: `has_changed_macro_f1` becomes `has changed macro F1`."""
    return name.replace("_", " ").replace("f1", "F1").replace("selfie", "SelfIE")
