"""Format durations, sizes, counts and names for people."""


def format_duration(seconds: float) -> str:
    """Seconds as text: `42 s`, `3 min 20 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_rest = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_rest} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def format_bytes(n_bytes: float) -> str:
    """Bytes as text: `512 B`, `1.2 kB`, `1.2 MB`, `3.4 GB` (decimal units)."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.1f} GB"


def format_name(name: str) -> str:
    """An identifier as words: `has_changed_macro_f1` becomes `has changed macro F1`."""
    return name.replace("_", " ").replace("f1", "F1").replace("selfie", "SelfIE")


def format_count(number: float, noun: str) -> str:
    """A number with a noun in the singular or plural: `1 minute`, `1,500 rows`."""
    text = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{text} {noun}" if number == 1 else f"{text} {noun}s"
