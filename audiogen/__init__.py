"""audiogen: text to sound.

    import audiogen
    generation = audiogen.load("everyday").generate(["a dog barking"], duration=5, seed=0)
    audiogen.write("dog.wav", generation.audio[0], generation.sample_rate)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audiogen.audio import write
    from audiogen.hub import load

__version__ = "0.1.0"
__all__ = ["__version__", "load", "write"]


def __getattr__(name: str) -> Any:
    """`load` and `write`, imported when they are first asked for: they bring torch with them."""
    if name == "load":
        from audiogen.hub import load

        return load
    if name == "write":
        from audiogen.audio import write

        return write
    raise AttributeError(f"module 'audiogen' has no attribute '{name}'")
